"""What a person sees while a sweep runs: a line a cell, and on a terminal a bar with what is running at this moment."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, TextIO

from .records import Cell, CellRun, Kind
from .worker import Job

if TYPE_CHECKING:
    from tqdm import tqdm

SHORTEST = 0.2  # seconds between two changes of the bar
_TEXT = 60  # characters of a label that are shown
_FEW: dict[Kind, int] = {"training": 1, "picture": 3}  # cells that have to be seen before the rest is guessed


class SweepProgress:
    """Lines on a stream, above tqdm's bar if it is a terminal. quiet: only what went wrong, and no bar."""

    def __init__(self, out: TextIO | None = None, quiet: bool = False) -> None:
        self.out = out or sys.stdout
        self.live = self.out.isatty() and not quiet
        self.quiet = quiet
        self.total = self.count = 0
        # Seconds between the end of a cell and that of the one before it.
        self.steps: dict[Kind, deque[float]] = {kind: deque(maxlen=50) for kind in _FEW}
        self.last_end = 0.0
        self.bar: tqdm[Any] | None = None
        self.waited: list[str] = []

    def begin(self, total: int) -> None:
        """Begin a run of that many cells."""
        self.total, self.last_end = total, time.monotonic()
        if not self.quiet:
            self.log(f"{total} cells to run" if total else "every cell is in the store already")
        if self.live and total:
            from tqdm import tqdm

            form = "[{n_fmt}/{total_fmt}] |{bar:20}| {desc}{postfix}"
            self.bar = tqdm(
                total=total, file=self.out, leave=False, dynamic_ncols=True, mininterval=SHORTEST, bar_format=form
            )

    def close(self) -> None:
        """Take the bar off the terminal; the lines stay."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def log(self, text: str) -> None:
        """Print a line."""
        if self.bar is not None:
            self.bar.write(text, file=self.out)
        else:
            print(text, file=self.out, flush=True)

    def event(self, worker: str, job: Job, kind: str, data: dict[str, Any]) -> None:
        """A message of a server about a cell: shown on a terminal, a few times a second."""
        if kind == "sent_again":
            self.log(f"{worker} has lost {describe(job.labels)} from its queue; it is sent again")
        if self.bar is None or kind not in ("progress", "executing") or not data.get("node"):
            return
        title = job.titles.get(str(data["node"]), str(data["node"]))
        steps = f" {data['value']:.0f}/{data['max']:.0f}" if kind == "progress" else ""
        self.bar.set_description_str(f"{describe(job.labels)}: {title}{steps}", refresh=False)
        self.bar.update(0)

    def end(self, cell: Cell, run: CellRun, left: Counter[Kind]) -> None:
        """A cell has ended; that many of each kind are still to be run."""
        self.count += 1
        self.total = self.count + left.total()
        now = time.monotonic()
        self.steps[cell.kind].append(now - self.last_end)
        self.last_end = now
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.set_postfix_str(self._left(left).strip(" ()"), refresh=False)
            self.bar.update()
        if self.quiet and run.status == "done":
            return
        what = "trained" if cell.kind == "training" and run.status == "done" else run.status
        text = f"[{self.count}/{self.total}] {what} {run.seconds:.1f} s  {describe(cell.labels)}{self._left(left)}"
        if run.error:
            text += f"\n    {run.error.splitlines()[0]}"
        self.log(text)

    def waiting(self, holders: list[str]) -> None:
        """Print that other runners hold the remaining cells."""
        if holders and holders != self.waited:
            self.log(f"waiting for {', '.join(holders)}")
        self.waited = holders

    def _left(self, left: Counter[Kind]) -> str:
        """The time that is left, by the medians of the last cells of each kind; nothing while one is unknown."""
        kinds = [kind for kind, count in left.items() if count]
        if not kinds or any(len(self.steps[kind]) < _FEW[kind] for kind in kinds):
            return ""
        return f"  ({duration(sum(statistics.median(self.steps[kind]) * left[kind] for kind in kinds))} left)"


def describe(labels: dict[str, str]) -> str:
    """The labels of a cell on one line."""
    shown = [label if len(label) <= _TEXT else f"{label[: _TEXT - 3]}..." for label in labels.values()]
    return " · ".join(shown) or "the one cell"


def duration(seconds: float) -> str:
    """Seconds as people write them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
