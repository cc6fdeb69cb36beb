"""The adapters of trainings in the file widgets: behind those of models/loras, and no other file of the output."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..unit.test_run_history import MARK, make

NAME = f"output/adapters/duck_{MARK}/adapter_00000002.safetensors"


@pytest.fixture
def sockets(pack: Any, comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """nodes.sockets, which looks anew each time, with a run and a secret in the output folder."""
    output = comfyui.base / "output"
    make(output, f"adapters/duck_{MARK}")
    (output / "adapters" / "secret.safetensors").write_bytes(b"secret")
    monkeypatch.setattr(pack.nodes.sockets, "_KEPT", -1.0)
    yield pack.nodes.sockets
    shutil.rmtree(output / "adapters")


def test_they_are_offered_behind_the_others(sockets: Any, comfyui: Any) -> None:
    import folder_paths

    loras = folder_paths.get_filename_list("loras")
    offered = sockets.adapter_files()
    assert offered[: len(loras)] == loras
    assert NAME in offered[len(loras) :]
    assert all(name.startswith("output/") for name in offered[len(loras) :])
    spec = comfyui.pack_nodes["DEFTAdapterLoader"].GET_NODE_INFO_V1()
    assert NAME in spec["input"]["required"]["file"][1]["options"]
    path = sockets.adapter_path(NAME)
    assert path == (comfyui.base / "output").resolve() / NAME.removeprefix("output/")
    assert sockets.file_state(NAME) != NAME
    path.write_bytes(b"changed")
    before = sockets.file_state(NAME)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no adapter file"):
        sockets.adapter_path(NAME)
    assert sockets.file_state(NAME) == NAME != before


@pytest.mark.parametrize(
    "name",
    [
        "output/adapters/secret.safetensors",
        f"output/adapters/duck_{MARK}/../secret.safetensors",
        f"output/adapters/duck_{MARK}/checkpoint_00000002.pt",
        f"adapters/duck_{MARK}/adapter_00000002.safetensors",
        "output/",
        "output//etc/passwd",
    ],
)
def test_nothing_else_is(sockets: Any, name: str) -> None:
    assert name not in sockets.adapter_files()
    with pytest.raises(FileNotFoundError, match="no adapter file"):
        sockets.adapter_path(name)


def test_those_of_the_newest_runs(sockets: Any, comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MOST_RUNS", 1)
    make(comfyui.base / "output", f"adapters/newer_{MARK}")
    assert list(sockets.run_adapters()) == [NAME.replace("duck", "newer")]


def test_the_answer_is_kept_for_a_moment(sockets: Any, comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """/object_info asks for it once for each widget."""
    sockets.run_adapters()
    monkeypatch.setattr(sockets, "_KEPT", 60.0)
    monkeypatch.setattr(sockets.history, "runs", None)
    assert NAME in sockets.run_adapters()
    path: Path = comfyui.base / "output" / NAME.removeprefix("output/")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        sockets.adapter_path(NAME)
