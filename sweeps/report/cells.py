"""The cells of a report, and the axes along which it arranges them where the plan names none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...reports.sweep.material import Layout, is_seed, subject_axis
from ...scoring.published import PUBLISHED
from ..records import Kind, Record
from ..schema import near


@dataclass(frozen=True)
class ReportCell:
    """A cell of the plan. labels: axis -> label, in the plan's order; of a training cell those that it depends on.

    record: reads what the store knows of it, when it is called; None where it has not been run. It is called once.
    """

    key: str
    labels: Mapping[str, str]
    kind: Kind
    record: Callable[[], Record | None]


def values_of(cells: Iterable[ReportCell]) -> dict[str, list[str]]:
    """The labels of each axis, both in order of appearance; the axes of cells with the most of them come first."""
    values: dict[str, dict[str, None]] = {}
    for cell in sorted(cells, key=lambda cell: -len(cell.labels)):  # stable: a training cell has fewer axes
        for axis, label in cell.labels.items():
            values.setdefault(axis, {})[label] = None
    return {axis: list(labels) for axis, labels in values.items()}


def completed(layout: Layout, cells: Sequence[ReportCell]) -> Layout:
    """The layout with its empty axes chosen.

    Raises ValueError for an axis that no cell has and for a published table that is none, with near names.

    rows: the axes that training depends on, without subject and seed, as far as they have several values; else the
    first other axis with several values. grid_rows: as rows. grid_columns: as columns; else the last axis with several
    values that is neither in the grid's rows nor subject or seed; else the seed.
    """
    axes = values_of(cells)
    if layout.published and layout.published not in PUBLISHED:
        raise ValueError(
            f"report: published: there is no table {layout.published!r}; {near(layout.published, PUBLISHED)}."
        )
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
    remaining = [axis for axis in plain if axis not in grid_rows]
    grid_columns = (
        layout.grid_columns
        or tuple(axis for axis in layout.columns if axis not in grid_rows)
        or tuple(remaining[-1:])
        or tuple(axis for axis in several if is_seed(axis))[:1]
    )
    return replace(layout, rows=rows, grid_rows=grid_rows, grid_columns=grid_columns)
