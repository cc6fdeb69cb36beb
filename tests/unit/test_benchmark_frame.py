"""The benchmark frame: order, warm-up, medians and the printed line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deft_pack.benchmarks import frame


def recorder(name: str, values: list[float], calls: list[str]) -> Callable[[], float]:
    left = iter(values)

    def measure() -> float:
        calls.append(name)
        return next(left)

    return measure


def test_sides_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    ours = recorder("ours", [100.0, 1.0, 3.0, 2.0], calls)
    peer = recorder("peer", [200.0, 4.0, 4.0, 8.0], calls)
    assert frame.alternate(ours, peer, runs=3) == (2.0, 4.0)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]


def test_the_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    frame.compare("a.b", lambda: 2.0, lambda: 3.0, unit="GiB", runs=2)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {"name": "a.b", "ours": 2.0, "peer": 3.0, "ratio": 0.6667, "unit": "GiB", "runs": 2}


def test_seconds_measures_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(frame, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def work() -> None:
        clock.now += 2.5

    measure = frame.seconds(work)
    clock.now += 100.0
    assert measure() == 2.5


def test_a_childs_peak_is_its_own() -> None:
    """The peak is not that of what its parent held when it was started."""
    held = bytearray(600 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert frame.memory("VmRSS") > 600
    done = subprocess.run(
        [sys.executable, "-c", "import frame; print(frame.memory('VmHWM'))"],
        capture_output=True,
        cwd=Path(frame.__file__).parent,
        text=True,
        check=True,
    )
    peak = float(done.stdout)
    assert 1 < peak < 300
