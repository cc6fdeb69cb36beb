"""A labelled grid of pictures: methods down, prompts across, the subject's own pictures at the side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VISIBLE = 160  # px: smaller pictures are enlarged by a whole factor to at least this width
GAP = 6
INK, FAINT, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)

Picture = Image.Image
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def comparison_grid(rows: Sequence[Sequence[Picture]], row_labels: Sequence[str] = (),
                    column_labels: Sequence[str] = (), row_notes: Sequence[str] = (), subject: Sequence[Picture] = (),
                    fit: bool = False) -> np.ndarray:
    """Draw rows of RGB pictures with labels: uint8 [height, width, 3].

    row_notes: small print under each row label (scores). subject: pictures stacked in a column at the left.
    Pictures of different sizes raise ValueError, or with `fit` are shrunk into the first one's size on white.
    Raises ValueError for no pictures, rows of unequal length, and label counts that do not match.
    """
    if not rows or not rows[0]:
        raise ValueError("images: there are no pictures to show.")
    columns = len(rows[0])
    for index, row in enumerate(rows):
        if len(row) != columns:
            raise ValueError(f"row {index + 1} has {len(row)} pictures, row 1 has {columns}; give every row the same.")
    for name, labels, count in (("row labels", row_labels, len(rows)), ("column labels", column_labels, columns)):
        if labels and len(labels) != count:
            raise ValueError(f"{len(labels)} {name} for {count} {name.split()[0]}s; write one line each, or none.")
    size = rows[0][0].size
    cells = [[_cell(picture, size, fit) for picture in row] for row in rows]
    width, height = cells[0][0].size
    font, small = ImageFont.load_default(max(13, height // 14)), ImageFont.load_default(max(11, height // 18))
    notes = [note.splitlines() for note in row_notes] or [[]] * len(rows)
    row_labels, column_labels = list(row_labels) or [""] * len(rows), list(column_labels) or [""] * columns
    names = [wrap(label, font, width + width // 2) for label in row_labels]
    titles = [wrap(label, small, width) for label in column_labels]
    side = max([_width(line, font) for lines in names for line in lines]
               + [_width(line, small) for lines in notes for line in lines], default=0)
    side = side + 2 * GAP if side else 0
    head = max(map(len, titles)) * _step(small)
    head = head + GAP if head or not subject else _step(small) + GAP
    tall = len(rows) * (height + GAP)
    # The subject's pictures stand one under the other, as large as a cell and the grid's height allow.
    each = max(1, min(width, (tall - GAP * len(subject)) // len(subject))) if subject else 0
    stack = max(each, _width("subject", small)) + 2 * GAP if subject else 0
    canvas = Image.new("RGB", (GAP + stack + side + columns * (width + GAP), head + GAP + tall), PAPER)
    draw = ImageDraw.Draw(canvas)
    if subject:
        draw.text((GAP, GAP), "subject", INK, small)
        for index, picture in enumerate(subject):
            canvas.paste(_fitted(picture, each, each), (GAP, head + GAP + index * (each + GAP)))
    for column, lines in enumerate(titles):
        _lines(draw, (GAP + stack + side + column * (width + GAP), GAP), lines, small, INK)
    for index, line in enumerate(cells):
        top = head + GAP + index * (height + GAP)
        below = _lines(draw, (GAP + stack, top), names[index], font, INK)
        _lines(draw, (GAP + stack, below + 2), notes[index], small, FAINT)
        for column, cell in enumerate(line):
            canvas.paste(cell, (GAP + stack + side + column * (width + GAP), top))
    return np.array(canvas)


def _cell(picture: Picture, size: tuple[int, int], fit: bool) -> Picture:
    """The picture in the grid's size, enlarged by a whole factor if small."""
    if picture.size != size:
        if not fit:
            raise ValueError(f"the pictures have different sizes ({size[0]} x {size[1]} and {picture.width} x "
                             f"{picture.height}); choose sizes = fit, or resize them first.")
        picture = _fitted(picture, *size)
    factor = -(-VISIBLE // max(size))
    return picture.resize((size[0] * factor, size[1] * factor), Image.Resampling.NEAREST) if factor > 1 else picture


def _fitted(picture: Picture, width: int, height: int) -> Picture:
    """The whole picture, scaled into width x height, on white."""
    factor = min(width / picture.width, height / picture.height)
    inner = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))),
                           Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas


def wrap(text: str, font: Font, width: int, lines: int = 4) -> list[str]:
    """Break a text at spaces into lines of at most `width` px; words that are too long and more lines are cut."""
    result: list[str] = []
    for word in text.split():
        longer = f"{result[-1]} {word}" if result else word
        if result and _width(longer, font) <= width:
            result[-1] = longer
        else:
            result.append(_cut(word, font, width))
    if len(result) > lines:
        result = [*result[:lines - 1], _cut(result[lines - 1] + "...", font, width)]
    return result


def _cut(text: str, font: Font, width: int) -> str:
    """The text, or as much of it as fits with three dots."""
    if _width(text, font) <= width:
        return text
    while len(text) > 1 and _width(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _width(text: str, font: Font) -> int:
    return int(np.ceil(font.getlength(text)))


def _step(font: Font) -> int:
    """Height of one line."""
    return int(font.getbbox("Ag|")[3]) + 4


def _lines(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Font,
           colour: tuple[int, int, int]) -> int:
    """Write lines downwards; returns the y below them."""
    for index, line in enumerate(lines):
        draw.text((place[0], place[1] + index * _step(font)), line, colour, font)
    return place[1] + len(lines) * _step(font)
