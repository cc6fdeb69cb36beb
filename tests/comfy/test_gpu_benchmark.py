"""The script for a GPU, benchmarks/gpu.py: every line of it on the CPU, on networks as small as they can be."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"
SIDES = {"name", "ours", "peer", "ratio", "unit", "runs"}
TWICE = ("deft", "lora", "para", "svdiff", "lokr")  # trained twice


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The script, whose modules find each other in its folder, in this process' ComfyUI."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        import apply
        import gpu as script

        apply.prepare = lambda device: None
        yield script
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
                del sys.modules[name]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """The lines that have been printed since the last call."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_every_line_runs(comfyui, gpu, printed) -> None:
    gpu.main(["--device", "cpu", "--small"])
    lines = printed()
    assert not [line for line in lines if "error" in line or "skipped" in line]
    by_name = {line["name"]: line for line in lines}
    assert len(by_name) == len(lines)
    places = [list(by_name).index(line.name) for line in gpu.LINES if not line.name.startswith("gpu.bits")]
    assert places == sorted(places), "the most important lines are not first"
    one_sided = ("gpu.device", "gpu.graph", "gpu.seconds", "gpu.waits.deft", "gpu.waits.lora")
    two_sided = [line for line in lines if line["name"] not in one_sided]
    for line in two_sided:
        assert line.keys() >= SIDES, line
        assert line["peer"] > 0, line
        assert line["ratio"] == pytest.approx(line["ours"] / line["peer"], rel=2e-3), line
        assert line["ours"] > 0 or line["name"].endswith(".difference") or "equal" in line or line["unit"] == "MiB", (
            line
        )
    bits = [by_name[f"gpu.bits.{name}{kind}"] for name in TWICE for kind in ("", ".checkpointing")]
    assert all(line["equal"] and line["ours"] == 0 for line in bits)
    assert by_name["gpu.memory_spent"]["equal"]
    assert "not enough memory" in by_name["gpu.memory_spent"]["message"]
    assert by_name["gpu.graph"]["note"].startswith("there is no graph yet")
    assert by_name["gpu.device"]["device"] == "cpu"
    assert by_name["gpu.waits.deft"].items() >= {"ours": 0, "looked_for": False, "places": {}}.items()
    assert all(by_name[f"gpu.score.{kind}.difference"]["ours"] < 1e-5 for kind in ("clip", "dino", "dinov2"))
    # Exact on every machine: a layer takes ComfyUI's LoRA three operations of the weight's size, and DEFT two of them
    # and two of the rank's.
    assert by_name["gpu.patch.sdxl.operations"]["ratio"] <= 4 / 3 + 1e-3


def test_what_the_time_is_not_enough_for_is_skipped(gpu, printed) -> None:
    gpu.main(["--device", "cpu", "--minutes", "0", "--lines", "gpu.step", "gpu.bits.lora"])
    *lines, last = printed()
    assert [line["name"] for line in lines] == [
        line.name for line in gpu.LINES if line.name.startswith(("gpu.step", "gpu.bits.lora"))
    ]
    assert all("0 s are left" in line["skipped"] for line in lines)
    assert last == {"name": "gpu.seconds", "ours": {}, "unit": "s"}


def test_a_line_that_fails_says_so_and_the_next_goes_on(comfyui, gpu, printed) -> None:
    def fail(session: Any, name: str) -> None:
        raise RuntimeError("no kernel image is available")

    lines = [gpu.Line("a", 0, fail), gpu.Line("b", 0, lambda session, name: gpu.print_result(name, ours=1))]
    gpu.run(lines, gpu.Session(small=True), lambda: 60.0)
    assert printed()[:2] == [
        {"name": "a", "error": "RuntimeError: no kernel image is available"},
        {"name": "b", "ours": 1},
    ]


def test_waits_are_those_of_the_second_step(gpu, printed, monkeypatch) -> None:
    import train

    def run(note: Callable[[Any], None]) -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
            note(None)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    monkeypatch.setattr(train, "training_of", lambda *args: (None, run))
    gpu.waiting(gpu.Session(small=True, device=torch.device("cpu")), "gpu.waits", "deft")
    (line,) = printed()
    assert line["ours"] == 2
    assert len(line["places"]) == 2
    assert all(place.startswith("comfy/test_gpu_benchmark.py/") for place in line["places"])


def test_the_time_that_a_device_computes_counts_no_moment_twice(gpu) -> None:
    import train

    assert train.covered([(5.0, 6.0), (0.0, 3.0), (1.0, 2.0), (2.5, 4.0)]) == 5.0
    assert train.covered([]) == 0.0
