"""What the report of a sweep shows, before it takes a form: cells, scores, numbers, and along which axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...scoring.scores import Scores

_Kind = Literal["training", "picture"]
CellState = Literal["done", "failed", "cancelled", "not run"]

STATES: tuple[CellState, ...] = ("done", "failed", "cancelled", "not run")
# In a kept score's provenance: which column of a pivot it belongs to, whether its row has it already, and its seeds.
ACROSS, AGAIN, SEED = "across", "again", "seed"


_SUBJECT_AXES = ("subject", "subjects", "concept", "person", "object", "photo", "photos")
BARE_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Layout:
    """The layout of tables and grids, by names of axes. What is empty is chosen by whoever knows the cells.

    rows: whose labels name the rows of the tables. columns: for a table of each metric with these across.
    picture: title of the output node whose pictures the grids show; empty: of the first picture.
    grid_rows, grid_columns: of the grids. metrics: the only ones shown, numbers of the cells among them; empty: all.
    published: the name of a published table that the scores are set beside; empty: none.
    """

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    picture: str = ""
    grid_rows: tuple[str, ...] = ()
    grid_columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True)
class CellPicture:
    """A picture in the store. name: of its file in the report's folder of pictures. title: of the node it is from."""

    path: Path
    name: str
    title: str


@dataclass(frozen=True)
class Shown:
    """What the report shows of a cell. row: its name in tables. scores: its means in a line.

    numbers: values that the plan took from texts. training_seconds: of a training cell, what its training nodes took,
    if known.
    """

    key: str
    kind: _Kind
    labels: Mapping[str, str]
    row: str
    state: CellState
    error: str = ""
    seconds: float = 0.0
    memory: Mapping[str, float] = field(default_factory=dict)
    versions: tuple[tuple[str, str], ...] = ()
    worker: str = ""
    attempts: int = 0
    finished: str = ""
    pictures: tuple[CellPicture, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    scores: str = ""
    needs: tuple[str, ...] = ()
    training_seconds: float | None = None


@dataclass
class SweepMaterial:
    """All that the report is made from. cells: in the plan's order. scores: named after the rows of the tables.

    numbers: the cells' numbers in the form of scores. problems: what could not be read, in sentences.
    """

    layout: Layout
    cells: list[Shown]
    scores: Scores
    numbers: Scores
    problems: list[str]

    def once(self, scores: Scores) -> Scores:
        """The scores that count in a table whose rows are not divided further."""
        return replace(scores, rows=tuple(row for row in scores.rows if not row.provenance[AGAIN]))

    @property
    def subject(self) -> str | None:
        """The axis of subjects."""
        return subject_axis(axis for cell in self.cells for axis in cell.labels)

    def unique(self, kind: _Kind | None = None) -> list[Shown]:
        """Each cell once, however often the plan wants it."""
        return list({cell.key: cell for cell in self.cells if kind in (None, cell.kind)}.values())


def subject_axis(axes: Iterable[str]) -> str | None:
    """The first axis whose name says that its values are subjects."""
    return next((axis for axis in axes if axis.lower() in _SUBJECT_AXES), None)


def is_seed(axis: str) -> bool:
    """Whether an axis' name says that its values are samples of the same thing."""
    return "seed" in axis.lower()


def joined(labels: Mapping[str, str], axes: Iterable[str]) -> str:
    """The labels of these axes in a line, as far as there are any: "DEFT rank 4"."""
    return " ".join(named(axis, labels[axis]) for axis in axes if axis in labels)


def named(axis: str, label: str) -> str:
    """A label as it can stand alone: a bare number with its axis."""
    return f"{axis} {label}" if BARE_NUMBER.fullmatch(label) else label
