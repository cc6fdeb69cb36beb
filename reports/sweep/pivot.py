"""The tables of a report: of scores and numbers with metrics across, or one a metric with an axis across."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ...scoring.scores import Score, Scores
from ..tables import FORMS, ScoreTable, Table, pivot, tabulate, text_table
from .material import ACROSS, STATES, Shown, SweepMaterial

_SOURCE = "Numbers that the plan took from the texts of nodes; nobody knows here which direction is the good one."
MOST_ROWS, MOST_CHARACTERS = 150, 320  # of a table that is drawn as a picture

_COUNTS = ("kind", "cells", *STATES, "seconds", "seconds a cell", "highest memory, MiB")


@dataclass(frozen=True)
class Titled:
    """A table with its title and the stem of its files."""

    name: str
    title: str
    table: ScoreTable

    @property
    def files(self) -> tuple[str, str]:
        """The names of the table's files."""
        return f"{self.name}.csv", f"{self.name}.png"

    @property
    def drawable(self) -> bool:
        """Whether the table is small enough to be a picture."""
        return len(self.table.rows) <= MOST_ROWS and sum(map(len, self.table.titles)) <= MOST_CHARACTERS

    def form(self, suffix: str) -> bytes:
        """The table as a file."""
        return FORMS[suffix](self.table, self.title)


def tables(material: SweepMaterial) -> list[Titled]:
    """All tables; the first of the scores is called "scores". What cannot be tabulated becomes a problem."""
    titled: list[Titled] = []
    for name, title, scores, counted in (
        ("scores", "Scores", material.scores, "images"),
        ("numbers", "Numbers of the workflow", material.numbers, "cells"),
    ):
        if not scores.rows:
            continue
        try:
            titled += _tables(name, title, scores, material, counted)
        except ValueError as error:
            material.problems.append(
                f"{title}: {error} No table is made of them; report the cells of each way by themselves."
            )
    return titled


def _tables(name: str, title: str, scores: Scores, material: SweepMaterial, counted: str) -> Iterable[Titled]:
    """The table with metrics across, and those with the columns' axes across."""
    layout, compare = material.layout, counted == "images"
    heading = ", ".join(layout.rows) or "row"

    def noted(table: ScoreTable) -> ScoreTable:
        notes = (*(table.notes if compare else (_SOURCE,)), *missing(material.unique()))
        return replace(table, notes=notes, counted=counted)

    yield Titled(name, title, noted(tabulate(material.once(scores), heading=heading, compare=compare)))
    if not layout.columns:
        return
    across = ", ".join(layout.columns)
    parted: Callable[[Score], str] = lambda score: score.provenance[ACROSS]  # noqa: E731
    taken = {name}
    for metric, table in pivot(scores, parted, heading, compare).items():
        stem = f"{name}-{re.sub(r'[^0-9A-Za-z]+', '-', metric).strip('-') or 'metric'}"
        while stem.lower() in taken:
            stem += "-"
        taken.add(stem.lower())
        yield Titled(stem, f"{metric} by {across}", noted(table))


def missing(cells: Sequence[Shown]) -> list[str]:
    """A note that counts the cells that are not in a table; empty if all are done."""
    parts = [
        f"{count} {'was' if count == 1 else 'were'} {state}"
        if state == "cancelled"
        else f"{count} {state}"
        if state == "failed"
        else f"{count} {'has' if count == 1 else 'have'} not been run"
        for state in STATES[1:]
        if (count := sum(cell.state == state for cell in cells))
    ]
    text = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
    return [f"Of {len(cells):,} cells {text}: they are not in the table."] if parts else []


def counts(material: SweepMaterial) -> Table:
    """The number of cells of each row of the report and kind of cell, and what they took.

    Seconds are of cells that are done; memory is the highest of them.
    """
    groups: dict[tuple[str, str], dict[str, Shown]] = {}
    for cell in material.cells:
        groups.setdefault((cell.row, cell.kind), {})[cell.key] = cell
    lines = []
    for (row, kind), group in groups.items():
        cells = list(group.values())
        seconds = [cell.seconds for cell in cells if cell.state == "done"]
        memory: dict[str, float] = {}
        for cell in cells:
            for what, size in cell.memory.items():
                memory[what] = max(memory.get(what, 0.0), size)
        lines.append(
            [
                row or "all",
                kind,
                str(len(cells)),
                *(str(sum(cell.state == state for cell in cells)) for state in STATES),
                f"{sum(seconds):,.1f}",
                f"{fmean(seconds):,.2f}" if seconds else "",
                ", ".join(f"{what} {size:,.0f}" for what, size in memory.items()),
            ]
        )
    return text_table([", ".join(material.layout.rows) or "row", *_COUNTS], lines, _COUNTS[1:])


def cells_table(material: SweepMaterial, axes: Sequence[str]) -> Table:
    """The table of all cells, for a CSV file: one line a cell with its labels, how it was run, and its numbers."""
    memory = list(dict.fromkeys(what for cell in material.cells for what in cell.memory))
    numbers = list(dict.fromkeys(name for cell in material.cells for name in cell.numbers))
    titles = ["cell", "kind", *axes, "state", "seconds", "training seconds", "attempts", "finished", "worker"]
    titles += [*(f"memory {what}, MiB" for what in memory), *numbers, "error"]

    def line(cell: Shown) -> list[object]:
        ran = cell.state != "not run"
        return [
            cell.key,
            cell.kind,
            *(cell.labels.get(axis, "") for axis in axes),
            cell.state,
            cell.seconds if ran else "",
            "" if cell.training_seconds is None else cell.training_seconds,
            cell.attempts if ran else "",
            cell.finished,
            cell.worker,
            *(cell.memory.get(what, "") for what in memory),
            *(cell.numbers.get(name, "") for name in numbers),
            cell.error,
        ]

    # One line at a time: a sweep may have 200,000 cells.
    return text_table(titles, ([str(value) for value in line(cell)] for cell in material.cells))
