"""A ComfyUI without one package of the pack's: every node is there, and only what needs a package asks for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..server.test_server import literal_node_ids
from .conftest import comfy_server, path_of
from .test_install import demo

FOLDER = "дефт ノード 1.0"  # no code may count on the folder's name


@pytest.fixture(scope="module")
def server(workshop: Path) -> Iterator[Any]:
    """A server in the environment that ComfyUI and Manager alone require, with the work tree as a pack."""
    base = workshop / "without packages"
    base.mkdir()
    python = path_of("bare", "0.30.0")
    assert python != Path(sys.executable)
    with comfy_server.ComfyServer(path_of("comfyui", "0.30.0"), base, pack_name=FOLDER, python=str(python)) as running:
        yield running


def part(*node_ids: str) -> dict[str, Any]:
    """The nodes of the demo that the wanted ones need."""
    whole, kept, todo = demo(), {}, list(node_ids)
    while todo:
        name = todo.pop()
        kept[name] = whole[name]
        todo += [value[0] for value in whole[name]["inputs"].values() if isinstance(value, list)]
    return kept


def error_of(server: Any, prompt: dict[str, Any]) -> str:
    """What a prompt that has to fail says."""
    with pytest.raises(comfy_server.PromptError) as caught:
        server.run(prompt)
    return str(caught.value)


def command(server: Any, package: str) -> str:
    """How to get a package: with the server's own Python."""
    return f"`{server.python} -m pip install {package}`"


def test_all_nodes_load(server: Any) -> None:
    info = server.get("/object_info")
    assert {
        name for name, node in info.items() if node["python_module"] == f"custom_nodes.{FOLDER}"
    } == literal_node_ids()
    assert "Traceback" not in server.log_file.read_text(errors="replace")


def test_training_and_sampling_work(server: Any) -> None:
    prompt = part("51") | {"90": {"class_type": "PreviewImage", "inputs": {"images": ["51", 0]}}}
    finished = server.run(prompt)
    assert len(finished.outputs["90"]["images"]) == len(prompt["7"]["inputs"]["prompts"].splitlines())


def test_the_plot_of_the_loss_asks_for_matplotlib_and_the_adapter_is_there(server: Any) -> None:
    prompt = part("20") | {
        "90": {"class_type": "PreviewImage", "inputs": {"images": ["20", 3]}},
        "91": {
            "class_type": "DEFTSaveAdapter",
            "inputs": {
                "adapter": ["20", 0],
                "filename_prefix": "made",
                "format": "native (.safetensors)",
                "place": "output",
            },
        },
    }
    errors = []
    finished = server.run(prompt, lambda kind, data: errors.append(data) if kind == "execution_error" else None)
    (error,) = errors
    assert error["node_id"] == "90"
    assert "The plot of the loss needs the package matplotlib, which is not installed" in error["exception_message"]
    assert command(server, "matplotlib") in error["exception_message"]
    assert "90" not in finished.outputs
    assert finished.outputs["91"]["files"]


def test_the_scorer_asks_for_open_clip(server: Any) -> None:
    error = error_of(server, part("60") | {"90": {"class_type": "PreviewAny", "inputs": {"source": ["60", 0]}}})
    assert "CLIP needs the package open_clip_torch, which is not installed" in error
    assert command(server, "open_clip_torch") in error


def test_a_scorer_of_timms_asks_for_timm(server: Any) -> None:
    scorer = {
        "class_type": "DEFTLoadScorer",
        "inputs": {
            "protocol": "custom",
            "protocol.clip_model": "",
            "protocol.image_model": "vit_tiny_patch16_224",
            "protocol.pairing": "all",
            "protocol.scale": 1.0,
        },
    }
    error = error_of(server, {"1": scorer, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}})
    assert "needs the package timm, which is not installed" in error
    assert command(server, "timm") in error


def test_adapter_info_asks_for_matplotlib(server: Any) -> None:
    error = error_of(server, part("20") | {"90": {"class_type": "DEFTAdapterInfo", "inputs": {"adapter": ["20", 0]}}})
    assert "needs the package matplotlib, which is not installed" in error
    assert command(server, "matplotlib") in error


def test_an_optimizer_asks_for_its_package(server: Any) -> None:
    settings = server.get("/object_info/DEFTTrainingSettings")["DEFTTrainingSettings"]["input"]
    given = {
        name: definition[1]["default"]
        for group in ("required", "optional")
        for name, definition in settings.get(group, {}).items()
        if "default" in definition[1]
    }
    prompt = part("20")
    prompt["90"] = {"class_type": "DEFTTrainingSettings", "inputs": given | {"optimizer": "Prodigy"}}
    prompt["20"]["inputs"]["settings"] = ["90", 0]
    prompt["91"] = {"class_type": "PreviewAny", "inputs": {"source": ["20", 2]}}
    error = error_of(server, prompt)
    assert "The optimizer Prodigy needs the package 'prodigyopt'" in error
    assert command(server, "prodigyopt") in error
