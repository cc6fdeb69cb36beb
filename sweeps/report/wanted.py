"""What a report is made of: the cells that a plan wants, and how they are to be laid out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..records import Kind, Record
from ..schema import near

SUBJECTS = ("subject", "subjects", "concept", "person", "object", "photo", "photos")
BARE_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Wanted:
    """A cell of the plan. labels: axis -> label, in the plan's order; of a training cell those that it depends on.

    record: reads what the store knows of it, when it is called; None where it has not been run. It is called once.
    """

    key: str
    labels: Mapping[str, str]
    kind: Kind
    record: Callable[[], Record | None]


@dataclass(frozen=True)
class Layout:
    """How to lay out tables and grids, by names of axes. What is empty is chosen by `completed`.

    rows: whose labels name the rows of the tables. columns: for a table of each metric with these across.
    picture: title of the output node whose pictures the grids show; empty: of the first picture.
    grid_rows, grid_columns: of the grids. metrics: the only ones shown, numbers of the cells among them; empty: all.
    """

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    picture: str = ""
    grid_rows: tuple[str, ...] = ()
    grid_columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


def values_of(cells: Iterable[Wanted]) -> dict[str, list[str]]:
    """Axis -> its labels, both in order of appearance; the axes of cells with the most of them come first."""
    found: dict[str, dict[str, None]] = {}
    for cell in sorted(cells, key=lambda cell: -len(cell.labels)):  # stable: a training cell has fewer axes
        for axis, label in cell.labels.items():
            found.setdefault(axis, {})[label] = None
    return {axis: list(labels) for axis, labels in found.items()}


def subject_axis(axes: Iterable[str]) -> str | None:
    """The first axis whose name says that its values are subjects."""
    return next((axis for axis in axes if axis.lower() in SUBJECTS), None)


def is_seed(axis: str) -> bool:
    """Whether an axis' name says that its values are samples of the same thing."""
    return "seed" in axis.lower()


def completed(layout: Layout, cells: Sequence[Wanted]) -> Layout:
    """The layout with its empty axes chosen. Raises ValueError for an axis that no cell has, with near names.

    rows: the axes that training depends on, without subject and seed, as far as they have several values; else the
    first other axis with several values. grid_rows: as rows. grid_columns: as columns; else the last axis with several
    values that is neither in the grid's rows nor subject or seed; else the seed.
    """
    axes = values_of(cells)
    for name in ("rows", "columns", "grid_rows", "grid_columns"):
        for axis in getattr(layout, name):
            if axis not in axes:
                raise ValueError(f"report: {name.replace('_', ' ')}: there is no axis {axis!r}; {near(axis, axes)}.")
    several = [axis for axis, labels in axes.items() if len(labels) > 1]
    subject = subject_axis(axes)
    plain = [axis for axis in several if axis != subject and not is_seed(axis)]
    trained = {axis for cell in cells if cell.kind == "training" for axis in cell.labels}
    rows = layout.rows or tuple(axis for axis in plain if axis in trained) or tuple(plain[:1]) or tuple(axes)[:1]
    grid_rows = layout.grid_rows or rows
    others = [axis for axis in plain if axis not in grid_rows]
    grid_columns = (
        layout.grid_columns
        or tuple(axis for axis in layout.columns if axis not in grid_rows)
        or tuple(others[-1:])
        or tuple(axis for axis in several if is_seed(axis))[:1]
    )
    return replace(layout, rows=rows, grid_rows=grid_rows, grid_columns=grid_columns)


def joined(labels: Mapping[str, str], axes: Iterable[str]) -> str:
    """The labels of these axes in a line, as far as there are any: "DEFT rank 4"."""
    return " ".join(named(axis, labels[axis]) for axis in axes if axis in labels)


def named(axis: str, label: str) -> str:
    """A label as it can stand alone: a bare number with its axis."""
    return f"{axis} {label}" if BARE_NUMBER.fullmatch(label) else label
