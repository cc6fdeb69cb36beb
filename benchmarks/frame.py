"""The frame of all benchmarks: us and the peer in one run, in turns, and one line of JSON a measurement."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Make a measurement out of work: how many seconds one call takes."""

    def measure() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measure


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, or VmHWM, its peak (Linux). ru_maxrss would count what its parent had, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def memory_of(device: Any) -> Any:
    """What measures a GPU's memory: torch.accelerator, or torch.cuda and torch.xpu, which are older."""
    import torch

    return torch.accelerator if hasattr(torch.accelerator, "max_memory_allocated") else getattr(torch, device.type)


def new_peak(device: Any) -> None:
    """Let `peak` start anew. What is free is given back first, or it would be used again without being seen."""
    import torch

    gc.collect()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
        memory_of(device).empty_cache()
        memory_of(device).reset_peak_memory_stats(device)
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: Any) -> float:
    """MiB of a device's memory that tensors had at most, or the process on a CPU, since `new_peak`."""
    return memory("VmHWM") if device.type == "cpu" else memory_of(device).max_memory_allocated(device) / 2**20


def in_use(device: Any) -> float:
    """MiB of a device's memory that tensors have, or the process on a CPU."""
    return memory("VmRSS") if device.type == "cpu" else memory_of(device).memory_allocated(device) / 2**20


def launched(func: Any) -> bool:
    """Whether an operation computes something: views of a tensor, and tensors without values, cost a GPU nothing."""
    name = func._schema.name.removeprefix("aten::")
    views = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
    return not views and not name.startswith(
        ("empty", "new_empty", "detach", "_local_scalar_dense", "is_", "sym_", "_has_")
    )


def counting_mode() -> Any:
    """A context whose `operations` are those that have been asked for in it and compute something."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operations += launched(func)
            return func(*args, **(kwargs or {}))

    return Counting()


def alternate(ours: Callable[[], float], peer: Callable[[], float], runs: int, warm_up: int = 1) -> tuple[float, float]:
    """Medians of `runs` measurements of each side, taken in turns, so that drift of the machine meets both alike.

    Each callable makes one measurement and returns it. The first `warm_up` rounds are not counted. The side that goes
    first changes from round to round.
    """
    counted: tuple[list[float], list[float]] = ([], [])
    sides = (ours, peer)
    for index in range(warm_up + runs):
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            value = sides[side]()
            if index >= warm_up:
                counted[side].append(value)
    return statistics.median(counted[0]), statistics.median(counted[1])


def report(name: str, ours: float, peer: float, unit: str, runs: int, **others: Any) -> dict[str, Any]:
    """Print one measurement as a line of JSON, and return it. ratio is ours / peer: below 1 we need less."""
    line: dict[str, Any] = {
        "name": name,
        "ours": significant(ours),
        "peer": significant(peer),
        "ratio": significant(ours / peer),
        "unit": unit,
        "runs": runs,
        **others,
    }
    print(json.dumps(line), flush=True)
    return line


def compare(
    name: str, ours: Callable[[], float], peer: Callable[[], float], *, unit: str = "s", runs: int = 5, warm_up: int = 1
) -> dict[str, Any]:
    """Measure both sides in turns and print the line."""
    return report(name, *alternate(ours, peer, runs, warm_up), unit, runs)


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")
