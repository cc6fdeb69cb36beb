"""The pack is installed as ComfyUI Manager does it, into ComfyUI's own environment, and its demo runs there."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ..preloaded import Preloaded
from ..server.example_files import WORKFLOWS, with_few_steps
from ..server.test_server import literal_node_ids
from .conftest import CM_CLI

VERSIONS = ("0.30.0", "0.24.0")


def demo() -> dict[str, Any]:
    """The demo workflow with short trainings."""
    return with_few_steps(json.loads((WORKFLOWS / "api" / "compare_methods.json").read_text()))


def pip_changes_nothing(before: dict[str, str], after: dict[str, str]) -> None:
    """All that was there is there in the same version; what is new is what the pack asks for."""
    changed = {name: (version, after.get(name)) for name, version in before.items() if after.get(name) != version}
    assert changed == {}
    assert {"open_clip_torch", "timm", "matplotlib", "peft"} <= after.keys() - before.keys()


def has_all_nodes(server: Any, folder: str) -> None:
    """The running server lists every node, as those of this folder."""
    info = server.get("/object_info")
    assert {
        name for name, node in info.items() if node["python_module"] == f"custom_nodes.{folder}"
    } == literal_node_ids()


def works(server: Any) -> None:
    """The demo goes through."""
    finished = server.run(demo())
    table = next(text for output in finished.outputs.values() for text in output.get("text", ()) if "CLIP-I" in text)
    assert all(method in table for method in ("DEFT r4", "PaRa r4", "LoRA r4"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS)
def test_zip_and_git_checkout(fresh: Any, registry: str, checkout: Path, version: str) -> None:
    """The archive in a fresh installation, and then the repository in its place: the packages are there by then.

    Both servers are forks of one process, which has imported the installation's large libraries (preloaded.py).
    """
    made = fresh(version)
    before = made.packages()
    output = made.run("-c", CM_CLI, registry, "install", "deft-nodes@0.1.0")
    assert "[INSTALLED] deft-nodes" in output, output
    assert "ERROR" not in output, output
    after = made.packages()
    pip_changes_nothing(before, after)
    made.run("-m", "pip", "check")
    folder = made.comfyui / "custom_nodes" / "deft-nodes"
    assert (folder / ".tracking").is_file()
    assert not (folder / "tests").exists()
    with tempfile.TemporaryDirectory() as short, Preloaded(Path(short), str(made.python)) as preloaded:
        with made.server(preloaded.python) as server:
            has_all_nodes(server, folder.name)
            works(server)
        shutil.rmtree(folder)
        output = made.run("-m", "cm_cli", "install", f"file://localhost{checkout}")
        assert "[INSTALLED]" in output, output
        assert "ERROR" not in output, output
        assert made.packages() == after
        folder = made.comfyui / "custom_nodes" / "comfyui_DEFT"  # Manager cuts off what looks like a suffix
        assert (folder / ".git").is_dir()
        with made.server(preloaded.python) as server:
            has_all_nodes(server, folder.name)


def test_a_changed_version_would_be_seen() -> None:
    """The comparison above finds an upgrade, a removal, and an installation that installed nothing."""
    before = {"numpy": "2.4.6", "pillow": "13.0.0"}
    new = {"open_clip_torch": "3.3.0", "timm": "1.0.31", "matplotlib": "3.11.2", "peft": "0.21.2"}
    pip_changes_nothing(before, before | new)
    for after in (before | new | {"numpy": "1.26.4"}, {"numpy": "2.4.6"} | new, before):
        with pytest.raises(AssertionError):
            pip_changes_nothing(before, after)
