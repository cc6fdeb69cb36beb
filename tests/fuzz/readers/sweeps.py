"""Files of sweeps: plans, workflows, the records of cells, and texts in PNG files."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ..kit import Files, Reader
from ..structures import encoded, near
from . import beside

PLAN: dict[str, Any] = {
    "name": "p",
    "about": "x",
    "workflow": "w.json",
    "set": {"Train.steps": 3, "KSampler.seed": 5},
    "axes": {
        "rank": {"into": "Train.rank", "values": [4, 8]},
        "named": {"into": ["A.x", "B.y"], "values": {"small": 1, "large": {"set": {"C.z": 2}, "mute": ["D"]}}},
        "strength": {"into": "Apply.strength", "range": {"from": 0.1, "to": 0.7, "step": 0.1}},
        "seed": {"into": "Sample.seed", "seeds": 3, "first": 42},
        "word": ["red", "blue"],
        "rows": {"csv": "rows.csv", "into": {"prompt": "Text.text"}},
        "file": {"files": "*.png", "into": "Load.image"},
    },
    "exclude": [{"rank": 4, "word": ["red"]}],
    "outputs": {"only": ["Save"], "previews": True, "numbers": {"loss": {"node": "Show", "pattern": "([0-9.]+)"}}},
    "report": {"title": "t", "rows": ["rank"], "columns": ["word"]},
}
CSV = b"prompt,subject\na dog,dog\na cat,cat\n"


def _yaml(value: Any) -> bytes:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


def plan_samples() -> list[Files]:
    """A plan with its table."""
    small = {"workflow": "w.json", "axes": {"seed": {"into": "Sample.seed", "seeds": 2}}}
    return [{"plan.yaml": _yaml(value), "rows.csv": CSV, "x.png": b"x"} for value in (PLAN, small)]


@st.composite
def plan_structures(draw: Any) -> Files:
    """A plan near a valid one."""
    try:
        text = _yaml(draw(near(PLAN)))
    except ValueError:
        text = b""
    rows = draw(
        st.one_of(
            st.just(CSV), st.binary(max_size=30), st.sampled_from((b"", b"a,a\n1,2\n", b"prompt\n" + b"x" * 200_000))
        )
    )
    return {"plan.yaml": text, "rows.csv": rows, "x.png": b"x"}


def use_plan(folder: Path) -> None:
    """Read a plan, and all labels of its values."""
    from deft_pack.sweeps.plan import read_plan

    plan = read_plan(folder / "plan.yaml")
    json.dumps([[value.label for value in axis.values[:1000]] for axis in plan.axes])


PLANS = Reader("plans", plan_samples, plan_structures, use_plan)

PROMPT: dict[str, Any] = {
    "1": {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "base", "weight_dtype": "default"},
        "_meta": {"title": "Model"},
    },
    "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
UI: dict[str, Any] = {
    "version": 0.4,
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "mode": 0,
            "pos": [0, 0],
            "inputs": [],
            "widgets_values": [64, 64, 1, 0],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "properties": {},
            "title": "Empty",
        },
        {
            "id": 2,
            "type": "SaveImage",
            "mode": 0,
            "pos": [0, 0],
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "outputs": [],
            "properties": {},
            "widgets_values": ["x"],
        },
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "groups": [],
    "definitions": {"subgraphs": []},
}


@functools.cache
def _cases() -> list[dict[str, Any]]:
    """Small workflows as the page saves them: subgraphs, primitives, reroutes, growing inputs and more."""
    from ...unit.test_sweep_conversion import CASES

    each = [case["workflow"] for case in CASES.values() if len(json.dumps(case["workflow"])) < 12_000]
    return [UI, *each]


def _info() -> dict[str, Any]:
    from ...unit import sweep_nodes, test_sweep_conversion

    return test_sweep_conversion.INFO | sweep_nodes.INFO


def workflow_samples() -> list[Files]:
    """A workflow in both forms."""
    return [{"w.json": json.dumps(value).encode()} for value in (PROMPT, {"prompt": PROMPT}, *_cases())]


@st.composite
def workflow_structures(draw: Any) -> Files:
    """A workflow near a valid one."""
    return {"w.json": encoded(draw(near(draw(st.sampled_from((PROMPT, *_cases()))))))}


def use_workflow(folder: Path) -> None:
    """Read a workflow, and take its parts."""
    from deft_pack.sweeps.schema import inputs_of
    from deft_pack.sweeps.workflow import order, read_workflow, title_of

    info = _info()
    prompt = read_workflow(folder / "w.json", info)
    for node_id in order(prompt):
        title_of(prompt, node_id, info)
        inputs_of(info[prompt[node_id]["class_type"]], prompt[node_id]["inputs"])


WORKFLOWS = Reader("workflows", workflow_samples, workflow_structures, use_workflow)

KEY = "ab" * 16
CELL: dict[str, Any] = {
    "key": KEY,
    "kind": "picture",
    "labels": {"seed": "1"},
    "needs": ["cd" * 16],
    "prompt": PROMPT,
    "files": [
        {"name": "a.png", "node": "1", "title": "Save", "class_type": "SaveImage"},
        {"name": "a.jsonl", "node": "2", "title": "Scores", "class_type": "DEFTSaveScores"},
    ],
    "numbers": {"score": 0.5},
}
RUN: dict[str, Any] = {
    "status": "done",
    "error": "",
    "seconds": 1.5,
    "node_seconds": {"1": 1.0},
    "memory": {"process": 10.0},
    "versions": {"torch": "2"},
    "worker": "w",
    "attempts": 1,
    "finished": "2026-01-01T00:00:00",
    "texts": {"Show": ["a"]},
}


def cell_samples() -> list[Files]:
    """A cell's folder."""
    from .scores import FILE, samples

    files = {"cell.json": encoded(CELL), "run.json": encoded(RUN), "a.jsonl": samples()[0][FILE]}
    return [{f"{KEY}/{name}": content for name, content in files.items()}]


@st.composite
def cell_structures(draw: Any) -> Files:
    """A cell whose records are near valid ones."""
    which = draw(st.booleans())
    files = cell_samples()[0]
    name, value = ("cell.json", CELL) if which else ("run.json", RUN)
    return files | {f"{KEY}/{name}": encoded(draw(near(value)))}


def use_cell(folder: Path) -> None:
    """Read a cell as a report does, whose problems name what is left out."""
    import io

    from deft_pack.reports.sweep.material import Layout
    from deft_pack.sweeps.records import read_record
    from deft_pack.sweeps.report import reading
    from deft_pack.sweeps.report.cells import ReportCell

    cell = ReportCell(KEY, {"seed": "1"}, "picture", lambda: read_record(folder / KEY))
    material = reading.read([cell], Layout(rows=("seed",)), io.StringIO())
    if material.problems:
        raise ValueError(" ".join(material.problems))


CELLS = Reader("cells", cell_samples, cell_structures, use_cell)


def png_samples() -> list[Files]:
    """A PNG file with texts."""
    return [{"a.png": beside.picture_samples()[0]["a.png"]}]


@st.composite
def png_structures(draw: Any) -> Files:
    """A PNG file with texts that are none."""
    return {"a.png": draw(beside.picture_structures())["a.png"]}


def use_png(folder: Path) -> None:
    """Read the texts, and set one. Whoever reads them names the file."""
    from deft_pack.sweeps.png import read_text, with_text

    path = folder / "a.png"
    try:
        texts = read_text(path.read_bytes())
        assert read_text(with_text(path.read_bytes(), {"prompt": "{}"})) == texts | {"prompt": "{}"}
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


PNG = Reader("png_texts", png_samples, png_structures, use_png)
