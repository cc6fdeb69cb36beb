"""Two metrics against each other, one point a method: subject likeness against prompt following."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scoring.metrics import Role, better, get_metric, order
from ..scoring.scores import Score, Scores
from ..scoring.statistics import Interval, Values, by_prompt, interval
from .canvas import pixels, white_canvas
from .letters import figure_font
from .reference import is_base

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

MOST_NAMES = 12  # more points than this are numbered, with their names beside the plot
DPI = 144
POINT_COLOURS = (
    "#3b6ea8",
    "#d98032",
    "#4b9a5a",
    "#b5484a",
    "#7d63a8",
    "#8a6a52",
    "#c76ba4",
    "#5f6b73",
    "#9a9a35",
    "#3a9fae",
)
MARKERS = ("o", "s", "^", "D", "v")
GREY = "#6b6b6b"  # of the base
# What a metric measures, by what it compares the pictures with.
MEASURES: dict[Role, str] = {
    "references": "subject likeness",
    "text": "prompt following",
    "base": "drift from the base",
    "prior": "likeness of others of its class",
    "within": "diversity",
}
NEAR = 16  # px: a name further away than this is tied to its point by a line
Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Point:
    """A method: the means of two metrics and their 95 % intervals, None where there are too few values for one.

    base: whether it is the base model, the reference of the others.
    """

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    base: bool = False


def points_of(scores: Scores, x: str = "CLIP-T", y: str = "DINO") -> tuple[list[Point], list[str]]:
    """One point a label (or method, where there is no label) with both metrics, and what to print below the plot.

    A mean is over all values; its interval is over groups of one subject and prompt. Raises ValueError for a metric
    that is not among the scores, for one that was measured in ways that do not compare, and for no point at all.
    """
    notes = [_measurement(scores, metric) for metric in dict.fromkeys((x, y))]
    across, up = _groups(scores, x), _groups(scores, y)
    labels = list(dict.fromkeys(_name(row) for row in scores.rows if row.metric in (x, y)))
    both = [label for label in labels if label in across and label in up]
    if not both:
        raise ValueError(f"no method has both {x} and {y}; measure both metrics of the same pictures.")
    methods = {_name(row): row.method for row in scores.rows}
    points = [
        Point(
            label,
            _mean(across[label]),
            _mean(up[label]),
            _ends(interval(across[label])),
            _ends(interval(up[label])),
            is_base(label, methods[label]),
        )
        for label in both
    ]
    bars = "Bars: 95% intervals of the mean, over subjects and prompts."
    if any(None in (point.x_interval, point.y_interval) for point in points):
        bars += " No bar: too few of them to tell."
    notes.append(bars)
    if len(pareto(points, x, y)) > 1:
        notes.append("Dashed line: the Pareto front, the methods that no other one beats in both metrics.")
    if any(point.base for point in points):
        notes.append("Grey: the base, the reference; dotted lines go through it.")
    for metric, side in ((x, across), (y, up)):
        if lacking := [label for label in labels if label not in side]:
            notes.append(f"Skipped, without {metric}: {', '.join(lacking)}.")
    return points, notes


def _name(row: Score) -> str:
    """The name of a method: its label, or else its method and rank."""
    return row.label or f"{row.method}{'' if row.rank is None else f' r{row.rank}'}" or "images"


def _measurement(scores: Scores, metric: str) -> str:
    """The metric's protocol and backbone in words. Raises ValueError if there is none, or more than one."""
    ways = list(dict.fromkeys(f"{row.protocol}: {row.measurement}" for row in scores.rows if row.metric == metric))
    if not ways:
        metrics = sorted({row.metric for row in scores.rows}, key=order)
        raise ValueError(
            f"there is no {metric} among the scores, only {', '.join(metrics) or 'nothing'}; choose one of "
            "these, or measure it."
        )
    if len(ways) > 1:
        raise ValueError(
            f"{metric} was measured in {len(ways)} ways that do not compare ({'; '.join(ways)}); plot the "
            "scores of each by themselves."
        )
    return f"{metric} ({ways[0]})"


def _groups(scores: Scores, metric: str) -> dict[str, Values]:
    """The values of each subject and prompt, by label."""
    rows_by_label: dict[str, list[Score]] = {}
    for row in scores.rows:
        if row.metric == metric:
            rows_by_label.setdefault(_name(row), []).append(row)
    return {label: by_prompt(rows) for label, rows in rows_by_label.items()}


def _mean(groups: Values) -> float:
    values = [value for group in groups.values() for value in group]
    return sum(values) / len(values)


def pareto(points: Sequence[Point], x: str, y: str) -> list[Point]:
    """The methods that no other is as good as in both metrics and better in one, from left to right; without the base.

    Methods with equal means are all among them.
    """

    def good(point: Point) -> tuple[float, float]:
        return (
            point.x if better(x) == "higher" else -point.x,
            point.y if better(y) == "higher" else -point.y,
        )

    rivals = [point for point in points if not point.base]
    front = [
        point
        for point in rivals
        if not any(
            good(other) != good(point) and all(one >= own for one, own in zip(good(other), good(point)))
            for other in rivals
        )
    ]
    return sorted(front, key=lambda point: (point.x, point.y))


def axis_title(metric: str) -> str:
    """What a metric measures, in words, with its name."""
    words = MEASURES[get_metric(metric).comparisons[0].role]
    return words if words == metric else f"{words} ({metric})"


def _ends(bounds: Interval | None) -> tuple[float, float] | None:
    return (bounds.low, bounds.high) if bounds else None


def scatter(
    points: Sequence[Point], x: str = "CLIP-T", y: str = "DINO", title: str = "", notes: Sequence[str] = ()
) -> np.ndarray:
    """Draw points with names and error bars: uint8 [height, width, 3].

    x, y: the metrics of the axes, whose good ends are marked. The base is grey and hollow, with lines through it, and
    the Pareto front of the others is a dashed line. notes: small print below. More than MOST_NAMES points are
    numbered, with their names at the right.
    """
    numbered = len(points) > MOST_NAMES
    names = [_short(point.label) for point in points]
    small = [line for note in notes for line in textwrap.wrap(note, 125)]
    # In inches, so that a longer legend or more small print does not squeeze the plot.
    left, bottom, above = 0.8, 0.75 + 0.14 * len(small), 0.5 if title else 0.2
    wide, high = 6.2, max(4.6, 0.19 * len(points) if numbered else 0)
    beside = 0.5 + 0.075 * max(map(len, names)) if numbered else 0.2
    width, height = left + wide + beside, bottom + high + above
    canvas = white_canvas("The plot", (width, height), dpi=DPI)
    figure = canvas.figure
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    for index, point in enumerate(points):
        _draw_point(axes, point, index, f"{index + 1}  {names[index]}")
    _draw_front(axes, pareto(points, x, y), better(x) == "higher")
    axes.margins(0.14)
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _name_axes(axes, x, y, 0.4 / high, 0.56 / wide)
    if numbered:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_fontproperties(figure_font(text.get_text()))
            text.set_fontsize(8)
    if title:
        figure.text(
            left / width,
            1 - 0.27 / height,
            title,
            fontproperties=figure_font(title, bold=True),
            fontsize=12,
            va="center",
            parse_math=False,
        )
    for index, line in enumerate(reversed(small)):
        figure.text(
            0.15 / width,
            (0.1 + 0.14 * index) / height,
            line,
            fontproperties=figure_font(line),
            fontsize=6.5,
            color="0.35",
            va="bottom",
            parse_math=False,
        )
    _write_names(canvas, axes, points, [str(index + 1) for index in range(len(points))] if numbered else names)
    return pixels(canvas)


def _short(label: str) -> str:
    """The label on one line, cut if it is long."""
    label = " ".join(label.split())
    return label if len(label) <= 40 else f"{label[:37]}..."


def _look(index: int) -> tuple[str, str]:
    """The colour and marker of a point: the marker changes when the colours are used up."""
    return POINT_COLOURS[index % len(POINT_COLOURS)], MARKERS[index // len(POINT_COLOURS) % len(MARKERS)]


def _draw_point(axes: Axes, point: Point, index: int, label: str) -> None:
    """Draw marker and error bars. The bars are separate lines: an interval need not be symmetric."""
    colour, marker = (GREY, "D") if point.base else _look(index)
    if point.base:
        axes.axvline(point.x, color=colour, linewidth=0.8, linestyle=":", zorder=1)
        axes.axhline(point.y, color=colour, linewidth=0.8, linestyle=":", zorder=1)
    if point.x_interval:
        axes.plot(point.x_interval, [point.y] * 2, color=colour, linewidth=1, alpha=0.6, marker="|", markersize=5)
    if point.y_interval:
        axes.plot([point.x] * 2, point.y_interval, color=colour, linewidth=1, alpha=0.6, marker="_", markersize=5)
    face, edge = ("white", colour) if point.base else (colour, "white")
    axes.plot(
        point.x,
        point.y,
        marker,
        color=face,
        markersize=6.5,
        markeredgecolor=edge,
        linestyle="none",
        label=label,
        zorder=3,
    )


def _draw_front(axes: Axes, front: Sequence[Point], higher: bool) -> None:
    """Draw the Pareto front as steps: what lies behind it is beaten. higher: whether that is the better end of x."""
    if len(front) > 1:
        axes.step(
            [point.x for point in front],
            [point.y for point in front],
            where="pre" if higher else "post",
            color="0.45",
            linewidth=1.1,
            linestyle=(0, (5, 3)),
            zorder=2,
        )


def _name_axes(axes: Axes, x: str, y: str, below: float, beside: float) -> None:
    """The metrics' names, and at the good end of each axis a word with an arrow; distances in parts of the axes."""
    style: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8.5, "color": "#3d7d4a"}
    axes.text(
        0.5,
        -below,
        axis_title(x),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontproperties=figure_font(x, bold=True),
        fontsize=10,
        parse_math=False,
    )
    axes.text(
        -beside,
        0.5,
        axis_title(y),
        transform=axes.transAxes,
        ha="right",
        va="center",
        rotation=90,
        fontproperties=figure_font(y, bold=True),
        fontsize=10,
        parse_math=False,
    )
    if better(x) == "higher":
        axes.text(1, -below, "better \N{RIGHTWARDS ARROW}", ha="right", va="top", **style)
    else:
        axes.text(0, -below, "\N{LEFTWARDS ARROW} better (lower)", ha="left", va="top", **style)
    if better(y) == "higher":
        axes.text(-beside, 1, "better \N{RIGHTWARDS ARROW}", ha="right", va="top", rotation=90, **style)
    else:
        axes.text(-beside, 0, "\N{LEFTWARDS ARROW} better (lower)", ha="right", va="bottom", rotation=90, **style)


def _write_names(canvas: FigureCanvasAgg, axes: Axes, points: Sequence[Point], names: Sequence[str]) -> None:
    """Each name near its point."""
    figure = canvas.figure
    width, height = canvas.get_width_height()
    texts = [
        figure.text(
            0,
            0,
            name,
            fontproperties=figure_font(name),
            fontsize=8.5,
            color=GREY if points[index].base else _look(index)[0],
            va="bottom",
            parse_math=False,
        )
        for index, name in enumerate(names)
    ]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    frame = axes.get_window_extent()
    axes.autoscale_view()  # or transData goes by limits that are not yet those of the points
    anchors = [tuple(axes.transData.transform((point.x, point.y))) for point in points]
    bars: list[Box] = []
    for point, (across, up) in zip(points, anchors, strict=True):
        ends = [axes.transData.transform((end, end)) for end in point.x_interval or ()]
        bars += [(ends[0][0], up - 2, ends[1][0], up + 2)] if ends else []
        ends = [axes.transData.transform((end, end)) for end in point.y_interval or ()]
        bars += [(across - 2, ends[0][1], across + 2, ends[1][1])] if ends else []
    places = place_names(
        anchors, [(box.width, box.height) for box in boxes], bars, (frame.x0, frame.y0, frame.x1, frame.y1)
    )
    for index, (text, (left, bottom, right, top)) in enumerate(zip(texts, places, strict=True)):
        text.set_position((left / width, bottom / height))
        across, up = anchors[index]
        end = min(max(across, left), right), min(max(up, bottom), top)
        if max(abs(end[0] - across), abs(end[1] - up)) > NEAR:
            axes.annotate(
                "",
                (across, up),
                end,
                "figure pixels",
                "figure pixels",
                arrowprops={"arrowstyle": "-", "color": text.get_color(), "linewidth": 0.5, "alpha": 0.6},
            )


def place_names(
    anchors: Sequence[tuple[float, ...]], sizes: Sequence[tuple[float, float]], bars: Sequence[Box], frame: Box
) -> list[Box]:
    """The place of each name, one after the other, in px: as near to its point as it can without covering anything.

    anchors: the points. sizes: width and height of the names. bars: what should rather not be covered. frame: where the
    names have to be. Where all places cover something, the one that covers least is taken.
    """
    marks = [(across - 7, up - 7, across + 7, up + 7) for across, up in anchors]
    placed: list[Box] = []
    for (across, up), (width, height) in zip(anchors, sizes, strict=True):
        candidates = []
        for far in (9, 14, 22, 34, 50, 70, 95, 125, 160):
            for side, rise in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)):
                left = across + side * far - width * (1 - side) / 2
                bottom = up + rise * far * (0.6 if side else 1) - height * (1 - rise) / 2
                box = left, bottom, left + width, bottom + height
                covered = (
                    sum(_shared(box, other) for other in (*placed, *marks)) * 10
                    + sum(_shared(box, other) for other in bars)
                    + (width * height - _shared(box, frame)) * 20
                )
                candidates.append((covered + far, box))
        placed.append(min(candidates, key=lambda candidate: candidate[0])[1])
    return placed


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
