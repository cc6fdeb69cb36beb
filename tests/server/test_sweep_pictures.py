"""Pictures of a sweep on a real server: dropped into ComfyUI's front end they give back the workflow of their cell."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .sweep_tools import ROOT, sweeps

EMPTY = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 48, "height": 32, "batch_size": 1, "color": 0},
        "_meta": {"title": "Sheet"},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "test_sweep_pictures/sheet"},
        "_meta": {"title": "Save sheet"},
    },
}
PLANS = {
    "colours": {
        "workflow": "workflow.json",
        "axes": {"colour": {"into": "Sheet.color", "values": [0x3366CC, 0xCC6633]}},
    },
    # The base model of the demo's plan. Other inputs than the plan's own test, so that ComfyUI has to sample.
    "base_model": {
        "workflow": str(ROOT / "example_workflows" / "api" / "sweep_demo.json"),
        "set": {
            "Sample.steps": 3,
            "Save picture.filename_prefix": "test_sweep_pictures/sample",
            "Prompt.text": "a teddy bear on a %ground% background, caf\u00e9",
        },
        "axes": {"method": {"values": {"Base": {"mute": ["Train"], "bypass": ["Apply"]}}}, "ground": ["red", "white"]},
        "outputs": {"only": ["Save picture"]},
    },
}


def run_sweep(folder: Path, name: str, url: str) -> list[Path]:
    """Run a plan of PLANS on the server; the folders of its cells."""
    (folder / "workflow.json").write_text(json.dumps(EMPTY))
    plan = folder / f"{name}.yaml"
    plan.write_text(json.dumps(PLANS[name]))  # JSON is YAML, too
    store = folder / "store"
    assert "2 done, 0 failed, 0 cancelled" in sweeps("run", plan, "--server", url, "--store", store)
    return sorted((store / "done").glob("*/*"))


def pixels(data: bytes) -> tuple[Any, ...]:
    """What a picture shows: mode, size, bytes."""
    picture = Image.open(BytesIO(data))
    return picture.mode, picture.size, picture.tobytes()


def of_vue(error: str) -> bool:
    """Whether it is of Vue, without a file of the pack in its stack: about one drop in ten had it once.

    Its cause is open: later it was not seen in 120 drops onto ComfyUI 0.30.0 without custom nodes (pictures with core
    nodes; canvas, Vue nodes, onto the page's first workflow), and not in 50 with the pack either.
    """
    return error.startswith("NotFoundError: Failed to execute 'removeChild'") and "/extensions/" not in error


Stored = dict[str, tuple[list[dict[str, Any]], list[Path], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def stored(server: Any, drive_new_browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The cells, their pictures, and what the page shows when each picture is dropped onto it, by the names of PLANS.
    One page for all."""
    cells, pictures = {}, {}
    for name in PLANS:
        folders = run_sweep(tmp_path_factory.mktemp(name), name, server.url)
        cells[name] = [json.loads((folder / "cell.json").read_text()) for folder in folders]
        pictures[name] = [folder / cell["files"][0]["name"] for folder, cell in zip(folders, cells[name])]
    seen = iter(drive_new_browser("drop", *(path for paths in pictures.values() for path in paths)))
    return {name: (cells[name], paths, [next(seen) for _ in paths]) for name, paths in pictures.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PLANS)
def test_a_stored_picture_is_its_workflow(server: Any, stored: Stored, name: str) -> None:
    picture_cells, pictures, dropped = stored[name]
    # The server's own files, by the prompt that SaveImage has written into them.
    made = {}
    for path in (server.base / "output" / "test_sweep_pictures").glob("*.png"):
        with Image.open(path) as picture:
            made[picture.info["prompt"]] = path.read_bytes()
    for cell, path in zip(picture_cells, pictures):
        assert [file["class_type"] for file in cell["files"]] == ["SaveImage"]
        with Image.open(path) as picture:
            texts = dict(picture.info)
        assert json.loads(texts["deft_sweep"]) == {"cell": cell["key"], "plan": name, "axes": cell["labels"]}
        assert json.loads(texts["prompt"]) == cell["prompt"]
        assert pixels(path.read_bytes()) == pixels(made[json.dumps(cell["prompt"])])
    assert len({pixels(path.read_bytes()) for path in pictures}) == 2  # each cell has a picture of its own

    for cell, seen in zip(picture_cells, dropped, strict=True):
        assert [node["type"] for node in seen["nodes"] if not node["registered"]] == []
        assert [error for error in seen["errors"] if not of_vue(error)] == []
        assert {node["id"]: node["title"] for node in seen["nodes"]} == {
            node_id: node["_meta"]["title"] for node_id, node in cell["prompt"].items()
        }
        assert without_titles(seen["api"]) == without_titles(cell["prompt"])


def without_titles(prompt: dict[str, Any]) -> dict[str, Any]:
    """Types and inputs of all nodes."""
    return {node_id: {"class_type": node["class_type"], "inputs": node["inputs"]} for node_id, node in prompt.items()}
