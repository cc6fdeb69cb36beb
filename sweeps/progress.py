"""What a person sees while a sweep runs: a line a cell, and on a terminal what is running at this moment."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter, deque
from typing import Any, TextIO

from .records import Cell, Kind, Run
from .worker import Job

TEXT = 60  # characters of a label that are shown
FEW: dict[Kind, int] = {"training": 1, "picture": 3}  # cells that have to be seen before the rest is guessed


class Progress:
    """Lines on a stream. quiet: only what went wrong."""

    def __init__(self, out: TextIO | None = None, quiet: bool = False) -> None:
        self.out = out or sys.stdout
        self.live = self.out.isatty() and not quiet
        self.quiet = quiet
        self.total = self.count = 0
        # Seconds between the end of a cell and that of the one before it.
        self.steps: dict[Kind, deque[float]] = {kind: deque(maxlen=50) for kind in FEW}
        self.last_end = 0.0
        self.last_line = 0.0
        self.waited: list[str] = []

    def begin(self, total: int) -> None:
        """That many cells are to be run."""
        self.total, self.last_end = total, time.monotonic()
        if not self.quiet:
            self.say(f"{total} cells to run" if total else "every cell is in the store already")

    def say(self, text: str) -> None:
        """A line."""
        self._clear()
        print(text, file=self.out, flush=True)

    def event(self, worker: str, job: Job, kind: str, data: dict[str, Any]) -> None:
        """A message of a server about a cell: shown on a terminal, a few times a second."""
        now = time.monotonic()
        if not self.live or now - self.last_line < 0.2 or kind not in ("progress", "executing") or not data.get("node"):
            return
        self.last_line = now
        title = job.titles.get(str(data["node"]), str(data["node"]))
        steps = f" {data['value']:.0f}/{data['max']:.0f}" if kind == "progress" else ""
        text = f"[{self.count}/{self.total}] {describe(job.labels)}: {title}{steps}"
        print(f"\r\033[K{text[:118]}", end="", file=self.out, flush=True)

    def end(self, cell: Cell, run: Run, left: Counter[Kind]) -> None:
        """A cell has ended; that many of each kind are still to be run."""
        self.count += 1
        self.total = self.count + left.total()
        now = time.monotonic()
        self.steps[cell.kind].append(now - self.last_end)
        self.last_end = now
        if self.quiet and run.status == "done":
            return
        what = "trained" if cell.kind == "training" and run.status == "done" else run.status
        text = f"[{self.count}/{self.total}] {what} {run.seconds:.1f} s  {describe(cell.labels)}{self._left(left)}"
        if run.error:
            text += f"\n    {run.error.splitlines()[0]}"
        self.say(text)

    def waiting(self, holders: list[str]) -> None:
        """Other runners hold what is left."""
        if holders and holders != self.waited:
            self.say(f"waiting for {', '.join(holders)}")
        self.waited = holders

    def _left(self, left: Counter[Kind]) -> str:
        """How long the rest will take, by the medians of the last cells of each kind; nothing while one is unknown."""
        kinds = [kind for kind, count in left.items() if count]
        if not kinds or any(len(self.steps[kind]) < FEW[kind] for kind in kinds):
            return ""
        return f"  ({duration(sum(statistics.median(self.steps[kind]) * left[kind] for kind in kinds))} left)"

    def _clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=self.out)


def describe(labels: dict[str, str]) -> str:
    """The labels of a cell on one line."""
    shown = [label if len(label) <= TEXT else f"{label[: TEXT - 3]}..." for label in labels.values()]
    return " · ".join(shown) or "the one cell"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
