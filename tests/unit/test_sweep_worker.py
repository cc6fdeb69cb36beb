"""What a worker does in the folders of its own server."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from deft_pack.sweeps import worker
from deft_pack.sweeps.errors import NodeFailed
from deft_pack.sweeps.plan import PlanNumber
from deft_pack.sweeps.server import HOST, Server, free_port
from deft_pack.sweeps.worker import number_in


def test_checkpoints_of_ended_trainings_go(tmp_path: Path) -> None:
    """Checkpoints of a training that runs stay, also where one of its files goes while we look."""
    long_ago = time.time() - 100
    for name in ("ended", "running", "renaming"):
        folder = tmp_path / "output" / "training" / name
        folder.mkdir(parents=True)
        for file in ("checkpoint_10.pt", "log.jsonl"):
            (folder / file).write_text("x")
            os.utime(folder / file, (long_ago, long_ago))
    trainings = tmp_path / "output" / "training"
    (trainings / "running" / "log.jsonl").write_text("more")
    (trainings / "renaming" / "checkpoint_20.pt.part").symlink_to(tmp_path / "gone")  # listed, not there
    Server(tmp_path, tmp_path).drop_checkpoints(time.time() - 50)
    assert sorted(folder.name for folder in trainings.iterdir()) == ["renaming", "running"]


def test_a_free_port_is_free() -> None:
    import socket

    ports = {free_port() for _ in range(20)}
    assert len(ports) > 1
    assert all(20000 <= port < 32000 for port in ports)
    with socket.socket() as probe:
        probe.bind((HOST, ports.pop()))


def test_the_number_of_a_text() -> None:
    assert number_in(PlanNumber("n", "Scores", re.compile(r"DINO (\d\.\d+)")), "CLIP-T 0.3\nDINO 0.75") == 0.75
    with pytest.raises(NodeFailed, match=r"Scores shows no number 'n' \(DINO\), but 'none'"):
        number_in(PlanNumber("n", "Scores", re.compile("DINO")), "none")


def test_a_pattern_that_would_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PATTERN_SECONDS", 0.2)
    with pytest.raises(NodeFailed, match=r"Scores: the pattern .* of 'n' cannot be matched .* more than 0\.2 s"):
        number_in(PlanNumber("n", "Scores", re.compile(r"^(a|aa)+$")), "a" * 5000 + "!")
