"""scripts/faults.py: which files it takes for damaged, and how it counts. (make faults runs it on servers.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ..scripts import SCRIPTS, load_script


@pytest.fixture(scope="module")
def faults() -> Any:
    load_script("comfy_server")
    return load_script("faults")


def test_what_a_killed_server_has_not_written_is_looked_at_once(faults: Any, tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text("{")
    os.utime(tmp_path / "before.json", (100.0, 100.0))
    (tmp_path / "after.json").write_text("{")
    os.utime(tmp_path / "after.json", (200.0, 200.0))
    assert [line.partition(":")[0] for line in faults.damaged(tmp_path, 150.0)] == ["after.json"]
    assert [line.partition(":")[0] for line in faults.damaged(tmp_path)] == ["after.json", "before.json"]


def test_a_kind_ends_when_its_minutes_are_over(faults: Any, tmp_path: Path) -> None:
    assert list(faults.Campaign("kind", tmp_path, 1).each(3)) == [0, 1, 2]
    assert list(faults.Campaign("kind", tmp_path, 1, minutes=0.0).each(3)) == []


MAIN = """
import json, os, sys, time
seen = {"words": sys.argv[1:], "folder": os.getcwd(), "path": sys.path, "name": __name__}
seen["variable"] = os.environ["SAID"]
seen["loaded"] = sorted(name for name in sys.modules if name.startswith(("comfy", "deft", "nodes", "faults")))
print(json.dumps(seen), flush=True)
time.sleep(600)
"""


def test_a_forked_server_is_a_process_of_its_own(
    faults: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork runs main.py as a newly started Python does, with nothing of the pack's loaded, and can be killed."""
    forked = load_script("forked_server")
    monkeypatch.setattr(forked, "LIBRARIES", ("json",))  # not the large ones
    monkeypatch.setattr(sys, "path", [*sys.path, str(SCRIPTS)])  # as when one of them is run
    (tmp_path / "main.py").write_text(MAIN)
    server = forked.ForkedServer(tmp_path, tmp_path, environment={"SAID": "a word"})
    with open(server.log_file, "wb") as log:
        process = server.launch(log)
    try:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        while not (printed := server.log_file.read_text()).endswith("\n"):
            assert process.poll() is None
    finally:
        process.kill()
    assert process.wait(60) == process.poll() == -signal.SIGKILL
    seen = json.loads(printed)
    assert (seen["words"], seen["folder"], seen["name"]) == (server.command()[2:], str(tmp_path), "__main__")
    assert (seen["path"][0], seen["variable"], seen["loaded"]) == (str(tmp_path), "a word", [])
    assert not any(Path(folder).is_relative_to(root) for folder in seen["path"])
    assert process.pid != os.getpid()


def test_files_that_are_cut_off_are_found(faults: Any, tmp_path: Path) -> None:
    """Each kind of file that a training or a table writes; not what lies under a temporary name."""
    save_file({"x": torch.ones(3)}, tmp_path / "adapter.safetensors")
    torch.save({"x": torch.ones(3)}, tmp_path / "checkpoint.pt")
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for name in ("table.png", "preview.jpg"):
        picture.save(tmp_path / name)
    (tmp_path / "run.json").write_text(json.dumps({"state": "running"}))
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')  # the last line may be
    (tmp_path / "table.csv").write_text("a,b\n")
    assert faults.damaged(tmp_path) == []
    half = tmp_path / "half"
    half.mkdir()
    for path in [path for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".csv"]:
        content = path.read_bytes()
        (half / path.name).write_bytes(b'{"st\n' if path.suffix == ".jsonl" else content[: len(content) // 2])
        (half / f".{path.name}.tmp").write_bytes(b"")
    wrong = [line.partition(":")[0] for line in faults.damaged(tmp_path)]
    names = ("adapter.safetensors", "checkpoint.pt", "log.jsonl", "preview.jpg", "run.json", "table.png")
    assert wrong == [f"half/{name}" for name in names]


def test_a_kind_that_does_not_end_is_a_fault(
    faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(campaign: Any, options: Namespace) -> str:
        campaign.check(True, "right")
        campaign.check(False, "wrong")
        raise RuntimeError("no server")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(faults.FAULT_KINDS, "breaks", breaks)
    monkeypatch.setitem(faults.FAULT_KINDS, "holds", lambda campaign, options: f"{options.prompts} prompts")
    assert faults.run("holds", Namespace(seed=1, minutes=1.0, prompts=7)) == []
    assert capsys.readouterr().out.startswith("[faults] holds: 7 prompts; 0 faults, ")
    assert faults.run("breaks", Namespace(seed=1, minutes=1.0)) == ["wrong", "RuntimeError: no server"]
    assert "[faults] breaks: not finished; 2 faults" in capsys.readouterr().out
