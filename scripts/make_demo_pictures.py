"""Make docs/demo_*: what the demo's examples and its plan for a sweep give.

    $(make -s python) scripts/make_demo_pictures.py [NAME ...]

Without names all of them, which takes some ten minutes on two CPU cores.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import picture_marks
import yaml
from browser import drive_browser
from comfy_server import ROOT, ComfyServer
from make_workflows import own_server, results
from PIL import Image
from rooms import load_room

workflow_files = load_room("workflow_sources", "files")
_DOCS = ROOT / "docs"
# Of an example: the node whose picture it is.
OF_EXAMPLES = {
    "demo_grid.jpg": ("compare_methods", "DEFTComparisonGrid"),
    "demo_all_grid.jpg": ("compare_all_methods", "DEFTComparisonGrid"),
    "demo_table.png": ("compare_all_methods", "DEFTScoreTable"),
    "demo_plot.png": ("compare_all_methods", "DEFTFidelityPlot"),
    "demo_drift_table.png": ("score_everything", "DEFTScoreTable"),
}
PLAN, SWEPT = ROOT / "sweeps" / "plans" / "demo.yaml", "sweep_demo"
PAGE, PAGE_SIZE = "demo_sweep_page.jpg", (1200, 1000)
# Of the plan's report: its file.
OF_REPORT = {"demo_sweep_table.png": "scores.png", "demo_sweep_grid.jpg": "grid-1.png", PAGE: "index.html"}
WIDEST = 1600  # of a JPEG, in pixels
QUALITY = 88


def marks() -> dict[Path, str]:
    """What each picture is made from."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    made = {name: picture_marks.digest(workflow_files.computed(example)) for name, (example, _) in OF_EXAMPLES.items()}
    made |= dict.fromkeys(OF_REPORT, picture_marks.digest(workflow_files.computed(SWEPT), plan))
    return {_DOCS / name: mark for name, mark in made.items()}


def encoded(picture: Image.Image, path: Path) -> bytes:
    """A picture as a file that is small enough for a page: tables and plots as PNG, photographs as JPEG."""
    data = io.BytesIO()
    picture = picture.convert("RGB")
    if path.suffix == ".png":
        picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    else:
        picture.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
        picture.save(data, "JPEG", quality=QUALITY, optimize=True)
    return data.getvalue()


def of_example(server: ComfyServer, example: str, paths: Collection[Path]) -> dict[Path, Image.Image]:
    """Run an example and return the pictures of it that these files are to show."""
    nodes = {node["class_type"]: node_id for node_id, node in workflow_files.prompt_of(example).items()}
    shown = results(server, example, [nodes[OF_EXAMPLES[path.name][1]] for path in paths])
    return dict(zip(paths, shown, strict=True))


def of_report(server: ComfyServer, paths: Collection[Path]) -> dict[Path, Image.Image]:
    """Run the plan as docs/sweeps.md does and return the pictures of its report that these files are to show."""
    store, report = server.base / "sweep", server.base / "report"
    for arguments in (["run", PLAN, "--server", server.url], ["report", PLAN, "--out", report]):
        command = [sys.executable, "-m", "sweeps", *map(str, arguments), "--store", str(store)]
        subprocess.run(command, cwd=ROOT, check=True)
    page = server.base / PAGE
    drive_browser("file", server.url, report / OF_REPORT[PAGE], page, *PAGE_SIZE)
    return {path: Image.open(page if path.name == PAGE else report / OF_REPORT[path.name]) for path in paths}


def by_run(marks_of_files: Mapping[Path, str]) -> dict[str, list[Path]]:
    """The files by what is run for them: an example, or the plan."""
    runs: dict[str, list[Path]] = {}
    for path in marks_of_files:
        runs.setdefault(OF_EXAMPLES.get(path.name, (SWEPT, ""))[0], []).append(path)
    return runs


def make(names: Collection[str] = ()) -> None:
    """Make these pictures; all without names."""
    chosen = picture_marks.chosen(marks(), names)
    with own_server() as server:
        for example, paths in by_run(chosen).items():
            made: dict[Path, Any] = of_report(server, paths) if example == SWEPT else of_example(server, example, paths)
            for path, picture in made.items():
                picture_marks.write(path, encoded(picture, path), chosen[path])


if __name__ == "__main__":
    make(sys.argv[1:])
