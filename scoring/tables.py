"""Tables of scores: methods down, metrics across, the best of each metric in bold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .scores import METRICS, Cost, Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """cells[row][column] is a mean over all images of that label, or None. best[column] is a row, or None.

    notes: one line a metric and protocol, with backbone and preprocessing. costs[row] has training seconds, values and
    MiB under COSTS, None for what is not known; it is empty if nothing is.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    cells: tuple[tuple[float | None, ...], ...]
    best: tuple[int | None, ...]
    notes: tuple[str, ...]
    costs: tuple[tuple[float | None, ...], ...] = ()


COSTS = ("training s", "values", "MiB")
COST_FORMS = ("{:.0f}", "{:,.0f}", "{:.3f}")


def tabulate(scores: Scores) -> Table:
    """One row a label in order of appearance; one column a metric (and protocol, where there are several).

    Scores of one label (several subjects or prompts) are averaged over their images, costs over their adapters. Raises
    ValueError for no scores, and where one column would mix backbones or preprocessing.
    """
    if not scores.rows:
        raise ValueError("there are no scores to tabulate; connect the scores of Score Images.")
    labels = tuple(dict.fromkeys(row.label or "images" for row in scores.rows))
    keys = sorted({(row.metric, row.protocol) for row in scores.rows}, key=lambda key: (METRICS.index(key[0]), key[1]))
    values: dict[tuple[str, str, str], list[float]] = {}
    made: dict[tuple[str, str], str] = {}
    for row in scores.rows:
        note = f"{row.backbone}, {row.pairing} pairs, scale {row.scale:g}, {row.preprocessing}"
        if made.setdefault((row.metric, row.protocol), note) != note:
            raise ValueError(f"{row.metric} of protocol {row.protocol} was measured in two ways that do not compare: "
                             f"{made[row.metric, row.protocol]}; and {note}.")
        values.setdefault((row.label or "images", row.metric, row.protocol), []).extend(row.values)
    cells = tuple(tuple(_mean(values.get((label, *key))) for key in keys) for label in labels)
    counts = tuple(max(len(values.get((label, *key), ())) for key in keys) for label in labels)
    best = tuple(_best([line[column] for line in cells]) for column in range(len(keys)))
    costs = tuple(_cost([cost for cost in scores.costs if (cost.label or "images") == label]) for label in labels)
    several = len({protocol for _, protocol in keys}) > 1
    return Table(tuple(f"{metric} ({protocol})" if several else metric for metric, protocol in keys), labels, counts,
                 cells, best, tuple(f"{metric} ({protocol}): {made[metric, protocol]}" for metric, protocol in keys),
                 costs if scores.costs else ())


def _cost(found: list[Cost]) -> tuple[float | None, ...]:
    """Means of what is known."""
    seconds = [cost.training_seconds for cost in found if cost.training_seconds is not None]
    return _mean(seconds), _mean([cost.values for cost in found]), _mean([cost.bytes / 2**20 for cost in found])


def _cost_texts(cost: tuple[float | None, ...]) -> list[str]:
    return ["" if value is None else form.format(value) for value, form in zip(cost, COST_FORMS, strict=True)]


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _best(column: list[float | None]) -> int | None:
    """The row of the highest value; None if there is nothing to compare."""
    known = [(value, -row) for row, value in enumerate(column) if value is not None]
    return -max(known)[1] if len(known) > 1 else None


def _text(value: float | None) -> str:
    """Three decimals for cosines, two for values of 100 times that."""
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def markdown(table: Table, title: str = "") -> str:
    """The table in Markdown, the best of each column in bold, notes below."""
    lines = [f"### {title}", ""] if title else []
    columns = [*table.columns, *(COSTS if table.costs else ())]
    lines.append("| method | images | " + " | ".join(columns) + " |")
    lines.append("|---|---:|" + "---:|" * len(columns))
    for row, label in enumerate(table.labels):
        cells = [f"**{_text(value)}**" if table.best[column] == row else _text(value)
                 for column, value in enumerate(table.cells[row])]
        cells += _cost_texts(table.costs[row]) if table.costs else []
        lines.append(f"| {_escape(label)} | {table.counts[row]} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"* {note}" for note in table.notes)]) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def csv_text(table: Table) -> str:
    """The table as CSV with all digits; an empty field where there is no value."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["method", "images", *table.columns, *(COSTS if table.costs else ())])
    for row, (label, count, line) in enumerate(zip(table.labels, table.counts, table.cells, strict=True)):
        values = [*line, *(table.costs[row] if table.costs else ())]
        writer.writerow([label, count, *("" if value is None else repr(value) for value in values)])
    return target.getvalue()


def picture(table: Table, title: str = "") -> np.ndarray:
    """The table as a picture, uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    header = ["method", "images", *table.columns, *(COSTS if table.costs else ())]
    rows = [[label.replace("\n", " "), str(count), *map(_text, line)]
            for label, count, line in zip(table.labels, table.counts, table.cells, strict=True)]
    for line, cost in zip(rows, table.costs, strict=False):
        line += _cost_texts(cost)
    # In characters: what the widest entry of each column needs.
    widths = [max(len(line[column]) for line in [header, *rows]) + 3 for column in range(len(header))]
    notes = "\n".join(table.notes)
    width = max(sum(widths) * 0.115, max(map(len, table.notes)) * 0.058, len(title) * 0.13, 4) + 0.4
    height = 0.36 * (len(rows) + 1) + (0.45 if title else 0.1) + 0.16 * len(table.notes) + 0.35
    figure = Figure(figsize=(width, height), dpi=144, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left, top, line_height = 0.2, height - (0.45 if title else 0.1), 0.36
    edges = np.concatenate([[0], np.cumsum(widths)]) / sum(widths) * (width - 0.4) + left
    if title:
        figure.text(left / width, 1 - 0.25 / height, title, fontsize=12, fontweight="bold", va="center")
    for row, line in enumerate([header, *rows]):
        middle = (top - (row + 0.5) * line_height) / height
        for column, text in enumerate(line):
            metric = 1 < column < len(table.columns) + 2
            bold = row == 0 or (metric and table.best[column - 2] == row - 1)
            x = edges[column] if column == 0 else edges[column + 1]
            figure.text(x / width, middle, text, fontsize=10, va="center", ha="left" if column == 0 else "right",
                        fontweight="bold" if bold else "normal", parse_math=False)
        if row in (0, len(rows)):
            _rule(figure, left / width, (top - (row + 1) * line_height) / height)
    figure.text(left / width, 0.12 / height, notes, fontsize=6.5, color="0.35", va="bottom", parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _rule(figure: Figure, x: float, y: float) -> None:
    """A thin horizontal line over the width of a matplotlib figure."""
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D([x, 1 - x], [y, y], color="0.6", linewidth=0.8))
