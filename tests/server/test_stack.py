"""Adapter Stack as people use it: its rows in the page, in the workflow that the page saves, and in a sweep of that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ..everyday import name_of
from .conftest import done_by, result_of
from .sweep_tools import cells, sweeps, write_plan

pytestmark = pytest.mark.timeout(600)

LAYER = "diffusion_model.joint_blocks.0.x_block.attn.proj"
MODES = {"canvas": False, "vue": True}
NAMES = ("stack_one.safetensors", "stack_two.safetensors")


@pytest.fixture(scope="module")
def files(server: Any) -> Iterator[tuple[str, ...]]:
    """Two PaRa files for the demo's denoiser, with their trigger words."""
    loras = server.base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        kept = torch.eye(192)[:, 60 * number : 60 * number + 50].contiguous()
        save_file({f"{LAYER}.deft_Q": kept}, loras / name, {"modelspec.trigger_phrase": f"word {number}, sks"})
    server.get("/object_info/DEFTAdapterStack")  # lists the folder again
    yield NAMES
    for name in NAMES:
        (loras / name).unlink()


def workflow(files: tuple[str, ...], **changed: Any) -> dict[str, Any]:
    """The demo model, both files, a picture, and the stack's words and report as texts."""
    rows: dict[str, Any] = {
        "file_1": files[0],
        "strength_1": 0.8,
        "on_1": True,
        "file_2": files[1],
        "strength_2": 1.0,
        "on_2": False,
    }
    rows |= {
        f"{name}_{number}": value
        for number in (3, 4, 5)
        for name, value in (("file", "None"), ("strength", 1.0), ("on", True))
    }
    stack = {"model": ["1", 0], **rows, "stacking": "sequential", "mode": "weights", **changed}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "1": ("UNETLoader", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}),
        "2": ("DEFTAdapterStack", stack),
        "3": ("DEFTDemoTextEncoder", {}),
        "4": ("CLIPTextEncode", {"clip": ["3", 0], "text": ["2", 3]}),
        "5": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "6": (
            "KSampler",
            {
                "model": ["2", 0],
                "positive": ["4", 0],
                "negative": ["4", 0],
                "latent_image": ["5", 0],
                "seed": 1,
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        ),
        "7": ("VAELoader", {"vae_name": "deft_demo_vae.safetensors"}),
        "8": ("VAEDecode", {"samples": ["6", 0], "vae": ["7", 0]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "stack/picture"}),
        "10": ("PreviewAny", {"source": ["2", 3]}),
        "11": ("PreviewAny", {"source": ["2", 4]}),
    }
    titles = {"2": "Stack", "11": "Report"}
    return {
        key: {"class_type": kind, "inputs": inputs, "_meta": {"title": titles.get(key, kind)}}
        for key, (kind, inputs) in nodes.items()
    }


def chosen(files: tuple[str, ...], vue: bool) -> dict[str, Any]:
    """What is chosen in the rows: a file in one that was empty, another is turned on."""
    return {"file_1": "None", "on_2": True, "strength_2": 0.5 + 0.25 * vue, "file_4": files[0]}


@pytest.fixture(scope="module")
def page(
    drive_browser: Any,
    files: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> tuple[Path, dict[str, Any]]:
    """The workflow as the page saves it, and what one page shows of it: opened ("check"), and run with the
    kinds of nodes that are asked for."""
    folder = tmp_path_factory.mktemp("stack")
    source, target = folder / "stack_api.json", folder / "stack.json"
    source.write_text(json.dumps(workflow(files)))
    jobs: dict[str, tuple[object, ...]] = {
        "reload": ("reload",),  # its lists have the adapters then
        "convert": ("convert", source, target),
        "check": ("check", json.dumps({"vue": True}), target),
    }
    asked = {
        item.callspec.id for item in request.session.items if name_of(item) == "test_rows_that_are_set_in_the_page_run"
    }
    for mode in asked:
        options = {"vue": MODES[mode], "set": {"DEFTAdapterStack": chosen(files, MODES[mode])}}
        jobs[mode] = ("run", json.dumps(options), target)
    return target, done_by(drive_browser, jobs)


def test_the_page_sends_what_was_saved(files: tuple[str, ...], page: tuple[Path, dict[str, Any]]) -> None:
    (seen,) = result_of(page[1], "check")
    assert seen["errors"] == []
    assert seen["complaints"] == []
    inputs = workflow(files)["2"]["inputs"]
    assert {name: seen["api"]["2"]["inputs"].get(name) for name in inputs} == inputs


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_are_set_in_the_page_run(
    files: tuple[str, ...], page: tuple[Path, dict[str, Any]], mode: str
) -> None:
    """A file is chosen in a row that was empty, another row is turned on, and both are applied in the rows' order."""
    (seen,) = result_of(page[1], mode)
    assert "failed" not in seen, seen
    assert seen["end"]["kind"] == "execution_success"
    assert seen["errors"] == []
    assert seen["complaints"] == []
    assert seen["outputs"]["10"]["text"] == ["word 1, sks, word 0"]
    assert seen["outputs"]["11"]["text"][0].splitlines()[::2] == [
        f"Row 2: {files[1]}: 1 layers applied (1 para)",
        f"Row 4: {files[0]}: 1 layers applied (1 para)",
    ]


def test_rows_in_a_sweep(
    server: Any, files: tuple[str, ...], page: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The workflow is one that the page has saved; its axes are the file of one row and whether another is on."""
    plan = write_plan(
        tmp_path,
        json.loads(page[0].read_text()),
        f"""
axes:
  file: {{into: Stack.file_1, values: {json.dumps(["None", *files])}}}
  second: {{into: Stack.on_2, values: [true, false]}}
""",
    )
    assert "6 done, 0 failed" in sweeps("run", plan, "--store", tmp_path / "store", "--server", server.url)
    choices = {
        (cell["prompt"]["2"]["inputs"]["file_1"], cell["prompt"]["2"]["inputs"]["on_2"])
        for cell in cells(tmp_path / "store").values()
    }
    assert choices == {(file, on) for file in ("None", *files) for on in (True, False)}
