"""scripts/faults.py: which files it takes for damaged, and how it counts. (make faults runs it on servers.)"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ..scripts import load_script


@pytest.fixture(scope="module")
def faults() -> Any:
    load_script("comfy_server")
    return load_script("faults")


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
    monkeypatch.setitem(faults.KINDS, "breaks", breaks)
    monkeypatch.setitem(faults.KINDS, "holds", lambda campaign, options: f"{options.prompts} prompts")
    assert faults.run("holds", Namespace(seed=1, prompts=7)) == []
    assert capsys.readouterr().out.startswith("[faults] holds: 7 prompts; 0 faults, ")
    assert faults.run("breaks", Namespace(seed=1)) == ["wrong", "RuntimeError: no server"]
    assert "[faults] breaks: not finished; 2 faults" in capsys.readouterr().out
