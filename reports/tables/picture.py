"""The table as a picture."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..canvas import pixels, white_canvas
from .table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 0.36  # height of a row in inches
CHARACTER = 0.115  # width of a character in inches
SMALL = 0.45  # width of a character of an interval, relative to the others


def png(table: Table, title: str = "") -> bytes:
    """The picture as a PNG file."""
    target = BytesIO()
    Image.fromarray(picture(table, title)).save(target, "PNG", optimize=True)
    return target.getvalue()


def picture(table: Table, title: str = "") -> np.ndarray:
    """The table, uint8 [height, width, 3]: the best of each column bold, intervals small, legend and notes below."""
    titles, flush_left = table.titles, table.flush_left
    # Each entry: its text, the small text after it, whether it is bold.
    rows = [[(name, "", True) for name in titles]]
    for entries in table.lines:
        rows.append([(entry.marked.replace("\n", " "), entry.interval, entry.bold) for entry in entries])
    # In characters: what the small texts of each column need, and what the widest entry needs with them.
    small = [
        SMALL * (max(len(line[column][1]) for line in rows) + 2) if any(line[column][1] for line in rows) else 0.0
        for column in range(len(titles))
    ]
    widths = [
        max(len(line[column][0]) + small[column] * (place > 0) for place, line in enumerate(rows)) + 3
        for column in range(len(titles))
    ]
    notes = [*filter(None, (table.legend,)), *table.notes]
    width = max(sum(widths) * CHARACTER, max(map(len, notes), default=0) * 0.058, len(title) * 0.13, 4) + 0.4
    height = LINE * len(rows) + (0.45 if title else 0.1) + 0.16 * len(notes) + 0.35
    canvas = white_canvas("The table's picture", (width, height), dpi=144)
    figure = canvas.figure
    left, top = 0.2, height - (0.45 if title else 0.1)
    scale = (width - 0.4) / sum(widths)
    edges = np.concatenate([[0], np.cumsum(widths)]) * scale + left
    if title:
        figure.text(
            left / width, 1 - 0.25 / height, title, fontsize=12, fontweight="bold", va="center", parse_math=False
        )
    for place, line in enumerate(rows):
        middle = (top - (place + 0.5) * LINE) / height
        for column, (text, beside, bold) in enumerate(line):
            x = edges[column] + (2 * CHARACTER if column else 0) if flush_left[column] else edges[column + 1]
            if place > 0 and small[column]:
                figure.text(x / width, middle, beside, fontsize=7, color="0.35", va="center", ha="right")
                x -= small[column] * CHARACTER
            figure.text(
                x / width,
                middle,
                text,
                fontsize=10,
                va="center",
                ha="left" if flush_left[column] else "right",
                fontweight="bold" if bold else "normal",
                parse_math=False,
            )
        if place in (0, len(rows) - 1):
            _rule(figure, left / width, (top - (place + 1) * LINE) / height)
    figure.text(
        left / width, 0.12 / height, "\n".join(notes), fontsize=6.5, color="0.35", va="bottom", parse_math=False
    )
    return pixels(canvas)


def _rule(figure: Figure, x: float, y: float) -> None:
    """A thin horizontal line over the width of a matplotlib figure."""
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D([x, 1 - x], [y, y], color="0.6", linewidth=0.8))
