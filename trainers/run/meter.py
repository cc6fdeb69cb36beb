"""What a training costs, measured while it runs: seconds a step, and the most memory."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

import psutil
import torch

from ...deft_ops.costs import GPU, PROCESS, TrainingCost

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """The most memory since `start`: of a GPU what PyTorch allocates, on other devices what the process has.

    Linux and Windows keep the process's peak; Linux alone lets it start anew. Elsewhere it is the most of what there
    was between the steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        module = getattr(torch, device.type, None) if device.type != "cpu" else None
        self.gpu: Any = module if hasattr(module, "max_memory_allocated") else None
        self.memory = PROCESS if self.gpu is None else GPU
        self.before = 0  # the process's peak at the start, where it cannot start anew
        self.seen = 0

    def start(self) -> None:
        """Let the peak start anew."""
        self.seen = 0
        if self.gpu is not None:
            try:
                self.gpu.reset_peak_memory_stats(self.device)
            except (RuntimeError, NotImplementedError):  # an allocator that does not count
                self.gpu, self.memory = None, PROCESS
        if self.gpu is None:
            try:
                _RESET.write_text("5")
                self.before = 0
            except OSError:
                self.before = _peak_of_process()

    def read(self) -> int:
        """The bytes at most since the start; where no peak is kept, up to this call."""
        if self.gpu is not None:
            return int(self.gpu.max_memory_allocated(self.device))
        peak = _peak_of_process()
        self.seen = max(self.seen, peak if peak > self.before else psutil.Process().memory_info().rss)
        return self.seen


def _peak_of_process() -> int:
    """The most bytes that the process has had in memory; 0 where the system does not keep that."""
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    except OSError:
        pass
    return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))


class Meter:
    """The cost of a run so far. `took` are the seconds of its steps, those of before a resume among them."""

    def __init__(self, device: torch.device) -> None:
        self.peak = Peak(device)
        self.took: list[float] = []
        self.most = 0

    def go_on(self, lines: list[dict[str, Any]]) -> None:
        """Count the steps of an earlier session, by the lines of its log; some may be missing."""
        self.took = [float(line["seconds"]) for line in lines]
        peaks = [line.get("peak_bytes") for line in lines]
        self.most = max((peak for peak in peaks if isinstance(peak, int) and 0 < peak < 1 << 60), default=0)

    def start(self) -> None:
        """Measure from here: before the first step, and after what is no part of the training."""
        self.peak.start()

    def step(self, seconds: float) -> dict[str, float | int]:
        """Count a step; what the log's line has of it: no `peak_bytes` where the device's allocator does not count."""
        self.took.append(seconds)
        now = self.peak.read()
        self.most = max(self.most, now)
        return {"seconds": round(seconds, 4)} | ({"peak_bytes": now} if now else {})

    def cost(self, steps: int, values: int, size: int) -> TrainingCost:
        """The cost of a training of so many steps; no seconds where the log lacks one of them.

        values: how many numbers are trained. size: bytes of the adapter's tensors.
        """
        is_whole = len(self.took) == steps > 0
        return TrainingCost(
            seconds=math.fsum(self.took) if is_whole else None,
            seconds_a_step=statistics.median(self.took) if self.took else None,
            peak_bytes=self.most or None,
            memory=self.peak.memory if self.most else "",
            values=values,
            bytes=size,
        )
