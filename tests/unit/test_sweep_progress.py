"""What is printed while a sweep runs, in a log and on a terminal."""

from __future__ import annotations

import io
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from deft_pack.sweeps import progress as module
from deft_pack.sweeps.progress import SweepProgress
from deft_pack.sweeps.records import Cell, CellRun

JOB: Any = SimpleNamespace(labels={"method": "DEFT"}, titles={"7": "Sample"})


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, and what stands on it."""

    def isatty(self) -> bool:
        return True

    @property
    def rows(self) -> list[str]:
        """The rows: a carriage return goes back to the start of the row, where other text takes the old one's place."""
        rows, column = [""], 0
        for letter in self.getvalue():
            if letter == "\r":
                column = 0
            elif letter == "\n":
                rows, column = [*rows, ""], 0
            else:
                rows[-1] = rows[-1][:column].ljust(column) + letter + rows[-1][column + 1 :]
                column += 1
        return [row.rstrip() for row in rows]


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Seconds that the test sets; the bar's own clock goes on."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def run_three(progress: SweepProgress, clock: SimpleNamespace, seen: Terminal | None = None) -> list[list[str]]:
    """A training and two pictures, one of which fails; the terminal's rows after each message of a server."""
    rows = []
    progress.begin(3)
    for seconds, key, kind, run, left in (
        (60.0, "t", "training", CellRun("done", seconds=59.0), Counter(training=1, picture=1)),
        (5.0, "a", "picture", CellRun("failed", "ValueError: no\nmore of it", seconds=4.0), Counter(training=1)),
        (5.0, "b", "picture", CellRun("done", seconds=4.5), Counter()),
    ):
        progress.event("w", JOB, "executing", {"node": "7"})
        progress.event("w", JOB, "progress", {"node": "7", "value": 3, "max": 20})
        rows.append(seen.rows if seen else [])
        clock.seconds += seconds
        progress.end(Cell(key, kind, {"method": "DEFT"}), run, left)
    progress.waiting(["other"])
    progress.waiting(["other"])
    progress.close()
    return rows


LINES = [
    "3 cells to run",
    "[1/3] trained 59.0 s  DEFT",
    "[2/3] failed 4.0 s  DEFT  (60 s left)",
    "    ValueError: no",
    "[3/3] done 4.5 s  DEFT",
    "waiting for other",
]


def test_a_log_has_a_line_a_cell(clock) -> None:
    out = io.StringIO()
    run_three(SweepProgress(out), clock)
    assert out.getvalue().splitlines() == LINES
    assert "\r" not in out.getvalue()


def test_a_terminal_has_the_same_lines_above_a_bar(clock, monkeypatch) -> None:
    monkeypatch.setattr(module, "SHORTEST", 0.0)
    out = Terminal()
    rows = run_three(SweepProgress(out), clock, out)
    assert rows[0][0] == LINES[0]
    assert [row[-1].split("|")[0] for row in rows] == ["[0/3] ", "[1/3] ", "[2/3] "]
    assert [row[-1].split("|")[2] for row in rows] == [
        " DEFT: Sample 3/20",
        " DEFT: Sample 3/20",
        " DEFT: Sample 3/20, 60 s left",
    ]
    assert out.rows == [*LINES, ""]  # the bar is gone, and no line of it stays


def test_only_what_goes_wrong_is_printed_where_that_is_asked_for(clock) -> None:
    out = Terminal()
    run_three(SweepProgress(out, quiet=True), clock)
    assert out.rows == ["[2/3] failed 4.0 s  DEFT  (60 s left)", "    ValueError: no", "waiting for other", ""]


def test_nothing_is_left_to_run(clock) -> None:
    out = Terminal()
    progress = SweepProgress(out)
    progress.begin(0)
    progress.close()
    assert out.rows == ["every cell is in the store already", ""]
