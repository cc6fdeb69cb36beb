"""The table as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from ..letters import Colour, Lettering
from .table import Table

INK, FAINT, PAPER, RULE = (20, 20, 20), (90, 90, 90), (255, 255, 255), (150, 150, 150)
BEST, BAND = (22, 112, 62), (244, 246, 248)  # of the best, and behind the reference
TEXT, SMALL, TITLE = 22, 15, 27  # px
LINE = 44  # px: the height of a row
MARGIN, BETWEEN = 28, 36  # px: around the table, and between columns
_NOTES = 900  # px: notes are at least as wide as this before they are broken


@dataclass(frozen=True)
class PlacedText:
    """A text of the picture. box: left, top, right and bottom in px. row: of the table, 0 the titles; None outside."""

    text: str
    box: tuple[int, int, int, int]
    font: Lettering
    colour: Colour = INK
    row: int | None = None
    column: int | None = None


def png(table: Table, title: str = "") -> bytes:
    """The picture as a PNG file."""
    target = BytesIO()
    Image.fromarray(picture(table, title)).save(target, "PNG", optimize=True)
    return target.getvalue()


def picture(table: Table, title: str = "") -> np.ndarray:
    """The table, uint8 [height, width, 3]: the best of each column bold, intervals small, legend and notes below.

    The title of a column of numbers stands over them; the reference is on a band of its own with a rule below it.
    """
    written, (width, height), edges = laid_out(table, title)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    if table.apart:
        draw.rectangle([MARGIN // 2, edges[1], width - MARGIN // 2, edges[1 + table.apart]], fill=BAND)
    for row in {1, 1 + table.apart, len(edges) - 1}:
        draw.line([(MARGIN // 2, edges[row]), (width - MARGIN // 2, edges[row])], fill=RULE, width=1 + (row == 1))
    for one in written:
        one.font.draw(draw, one.box[:2], one.text, one.colour)
    return np.array(canvas)


def laid_out(table: Table, title: str = "") -> tuple[list[PlacedText], tuple[int, int], list[int]]:
    """All texts in their places, the size of the picture, and the tops of the rows, with the bottom of the last."""
    plain, bold, small = Lettering(TEXT), Lettering(TEXT, bold=True), Lettering(SMALL)
    titles = [f"{name} {arrow}".strip() for name, arrow in zip(table.titles, table.arrows)]
    lines = [list(line) for line in table.lines]
    # Of each column: the width of its titles and numbers, and of the intervals behind them.
    numbers = [
        max(
            [bold.width(name)]
            + [(bold if line[column].bold else plain).width(_flat(line[column].marked)) for line in lines]
        )
        for column, name in enumerate(titles)
    ]
    around = [max((small.width(line[column].interval) for line in lines), default=0) for column in range(len(titles))]
    lefts, left = [], MARGIN
    for number, interval in zip(numbers, around):
        lefts.append(left)
        left += number + (interval + SMALL // 2 if interval else 0) + BETWEEN
    heading = Lettering(TITLE, bold=True)
    width = max(left - BETWEEN + MARGIN, heading.width(_flat(title)) + 2 * MARGIN)
    notes = [*filter(None, (table.legend,)), *table.notes]
    width = max(width, min(_NOTES, max(map(small.width, notes), default=0) + 2 * MARGIN))
    written: list[PlacedText] = []

    def write(text: str, font: Lettering, x: int, y: int, right: bool = False, **more: object) -> None:
        if not text:
            return
        length = font.width(text)
        x -= length if right else 0
        written.append(PlacedText(text, (x, y, x + length, y + font.ascent + font.descent), font, **more))  # type: ignore[arg-type]

    top = MARGIN // 2
    if title:
        write(_flat(title), heading, MARGIN, top)
        top += heading.step + MARGIN // 2
    edges = [top + LINE * row for row in range(len(lines) + 2)]
    for column, name in enumerate(titles):
        right = not table.flush_left[column]
        x = lefts[column] + numbers[column] * right
        y = edges[0] + (LINE - bold.ascent - bold.descent) // 2
        write(name, bold, x, y, right, row=0, column=column)
        for row, line in enumerate(lines, 1):
            entry, place = line[column], edges[row] + (LINE - plain.ascent - plain.descent) // 2
            font = bold if entry.bold else plain
            colour = BEST if entry.bold else INK
            write(_flat(entry.marked), font, x, place, right, row=row, column=column, colour=colour)
            if entry.interval:
                start = lefts[column] + numbers[column] + SMALL // 2
                below = place + plain.ascent - small.ascent
                write(entry.interval, small, start, below, row=row, column=column, colour=FAINT)
    y = edges[-1] + MARGIN // 2
    for note in notes:
        for part in small.wrap(_flat(note), width - 2 * MARGIN, 99):
            write(part, small, MARGIN, y, colour=FAINT)
            y += small.step
    return written, (width, y + MARGIN // 2), edges


def _flat(text: str) -> str:
    """A text in one line."""
    return text.replace("\n", " ")
