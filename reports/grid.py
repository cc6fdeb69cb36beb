"""A labelled grid of pictures: methods down, prompts across, the subject's own pictures at the side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VISIBLE = 160  # px: smaller pictures are enlarged by a whole factor to at least this width
SMALLEST = 16  # px: the longer side of the smallest cell that is still drawn
LABEL_WIDTH = 84  # px: what a label or a score needs to be read, however small the cell
MAX_PIXELS = 40_000_000
GAP = 6
INK, FAINT, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
PALE, CROSS = (246, 246, 246), (205, 205, 205)

GridPicture = Image.Image
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Item = TypeVar("Item", covariant=True)


class PictureRow(Protocol[Item]):
    """A sequence of RGB pictures, which may be made when they are asked for."""

    def __len__(self) -> int:
        """The number of pictures."""

    def __getitem__(self, index: int, /) -> Item:
        """The picture at this place."""


GridRow = PictureRow[GridPicture | None]  # None is a missing one


@dataclass(frozen=True)
class _Words:
    """All text of a grid: padded to its rows and columns."""

    row_labels: list[str]
    row_notes: list[str]
    column_labels: list[str]
    cell_notes: list[list[str]]


@dataclass(frozen=True)
class _Layout:
    """The places of everything, in px. names, notes, titles and prints are the wrapped lines of the words."""

    cell: tuple[int, int]
    pitch: int  # from one column to the next
    tops: list[int]  # of the rows
    side: int  # left of the row labels
    left: int  # left of the first column
    head: int
    size: tuple[int, int]  # of the whole picture
    font: Font
    small: Font
    names: list[list[str]]
    notes: list[list[str]]
    titles: list[list[str]]
    prints: list[list[list[str]]]
    stack: tuple[int, int]  # side of a subject's picture, and how many stand beside each other

    @property
    def pixels(self) -> int:
        """The number of pixels of the whole picture."""
        return self.size[0] * self.size[1]


def comparison_grid(
    rows: Sequence[GridRow],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_notes: Sequence[str] = (),
    subject: PictureRow[GridPicture] = (),
    fit: bool = False,
    cell_notes: Sequence[Sequence[str]] = (),
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Draw rows of RGB pictures with labels: uint8 [height, width, 3].

    row_notes: small print under each row label (scores). cell_notes: small print under each picture, by row and column;
    what two spaces divide ("CLIP-I 0.812  DINO 0.640") is broken only there. subject: pictures at the left.
    None, what a shorter row lacks, and rows and columns that have only a label are drawn as missing cells.
    Pictures of different sizes raise ValueError, or with `fit` are shrunk into the first one's size on white.
    The cells are shrunk as far as the result would have more than `max_pixels`. Each picture is asked for when it is
    drawn, and dropped before the next one (the first is asked for twice), so that they need not be in memory at once.
    Raises ValueError for no pictures, for fewer labels than rows or columns, and for more cells than fit at 16 px.
    """
    size = _first_size(rows)
    height, width = max(len(rows), len(row_labels)), max(*map(len, rows), len(column_labels), 1)
    for name, labels, count in (("row labels", row_labels, len(rows)), ("column labels", column_labels, width)):
        if labels and len(labels) < count:
            raise ValueError(f"{len(labels)} {name} for {count} {name.split()[0]}s; write one line each, or none.")
    prints = [_padded(notes, width) for notes in cell_notes]
    words = _Words(
        _padded(row_labels, height),
        _padded(row_notes, height),
        _padded(column_labels, width),
        prints + [[""] * width] * (height - len(prints)),
    )
    layout = _largest(size, max_pixels, lambda cell: _lay_out(cell, words, len(subject)))
    if layout is None:
        raise ValueError(
            f"{height} x {width} = {height * width:,} cells do not fit into {max_pixels:,} pixels at "
            f"{SMALLEST} px a cell and with their labels; make several grids with fewer rows or columns."
        )
    canvas = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_words(draw, layout)
    _draw_subject(canvas, draw, layout, subject)
    for row, top in enumerate(layout.tops):
        for column in range(width):
            # No name for the picture: it would keep it alive until the next one is there.
            place = (layout.left + column * layout.pitch, top)
            canvas.paste(_cell(_at(rows, row, column), size, layout, fit), place)
    return np.array(canvas)


def _first_size(rows: Sequence[GridRow]) -> tuple[int, int]:
    """The width and height of the first picture. Raises ValueError if there is none."""
    for row in rows:
        for column in range(len(row)):
            picture = row[column]
            if picture is not None:
                return picture.size
    raise ValueError("images: there are no pictures to show.")


def _padded(texts: Sequence[str], count: int) -> list[str]:
    return [*texts, *[""] * (count - len(texts))]


def _at(rows: Sequence[GridRow], row: int, column: int) -> GridPicture | None:
    """The picture of a cell, or None outside the rows."""
    return rows[row][column] if row < len(rows) and column < len(rows[row]) else None


def _largest(size: tuple[int, int], max_pixels: int, make: Callable[[tuple[int, int]], _Layout]) -> _Layout | None:
    """The layout with the largest cells that has at most max_pixels; None if that is below SMALLEST.

    Small pictures are enlarged by a whole factor where there is room, so that their pixels stay squares.
    """
    longest = max(size)
    for factor in range(-(-VISIBLE // longest), 0, -1):
        layout = make((size[0] * factor, size[1] * factor))
        if layout.pixels <= max_pixels and longest * factor >= SMALLEST:
            return layout

    def scaled(side: int) -> tuple[int, int]:
        return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))

    low, high, largest = SMALLEST, longest, make(scaled(SMALLEST))
    if largest.pixels > max_pixels:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        layout = make(scaled(middle))
        if layout.pixels <= max_pixels:
            low, largest = middle, layout
        else:
            high = middle
    return largest


def _lay_out(cell: tuple[int, int], words: _Words, subjects: int) -> _Layout:
    """The layout with cells of that width and height."""
    width, height = cell
    font, small = ImageFont.load_default(max(13, height // 14)), ImageFont.load_default(max(11, height // 18))
    room = max(width, LABEL_WIDTH) if any(words.column_labels) or any(map(any, words.cell_notes)) else width
    names = [wrap(label, font, room + room // 2) for label in words.row_labels]
    notes = [note.splitlines() for note in words.row_notes]
    titles = [wrap(label, small, room) for label in words.column_labels]
    prints = [[wrap(note, small, room, 8, "  ") for note in line] for line in words.cell_notes]
    side = max(
        [_width(line, font) for lines in names for line in lines]
        + [_width(line, small) for lines in notes for line in lines],
        default=0,
    )
    side = side + 2 * GAP if side else 0
    head = max(map(len, titles)) * _step(small)
    head = head + GAP if head or not subjects else _step(small) + GAP
    tops, top = [], head + GAP
    for name, note, line in zip(names, notes, prints, strict=True):
        tops.append(top)
        lines = max(map(len, line))
        printed = lines * _step(small) + GAP if lines else 0
        top += max(height + printed, len(name) * _step(font) + len(note) * _step(small)) + GAP
    each, across = _stacked(subjects, max(width, LABEL_WIDTH), top - head - GAP)
    stack = max(across * (each + GAP), _width("subject", small)) + GAP if subjects else 0
    left, pitch = GAP + stack + side, room + GAP
    return _Layout(
        cell,
        pitch,
        tops,
        GAP + stack,
        left,
        head,
        (left + len(titles) * pitch, top),
        font,
        small,
        names,
        notes,
        titles,
        prints,
        (each, across),
    )


def _stacked(count: int, width: int, height: int) -> tuple[int, int]:
    """The side of the subject's pictures, and how many stand beside each other.

    They stand one under the other, as large as `width` and the grid's height allow; in more columns where they would
    be smaller than a third of that.
    """
    for across in range(1, count + 1):
        down = -(-count // across)
        each = min(width, (height - GAP * down) // down)
        if each >= width / 3 or across == count:
            return max(1, each), across
    return 0, 0


def _draw_words(draw: ImageDraw.ImageDraw, layout: _Layout) -> None:
    """Draw the labels and notes."""
    for column, lines in enumerate(layout.titles):
        _lines(draw, (layout.left + column * layout.pitch, GAP), lines, layout.small, INK)
    for row, top in enumerate(layout.tops):
        below = _lines(draw, (layout.side, top), layout.names[row], layout.font, INK)
        _lines(draw, (layout.side, below + 2), layout.notes[row], layout.small, FAINT)
        for column, lines in enumerate(layout.prints[row]):
            place = (layout.left + column * layout.pitch, top + layout.cell[1] + 1)
            _lines(draw, place, lines, layout.small, FAINT)


def _draw_subject(
    canvas: GridPicture, draw: ImageDraw.ImageDraw, layout: _Layout, subject: PictureRow[GridPicture]
) -> None:
    """The subject's pictures at the left, one after the other as the cells."""
    each, across = layout.stack
    if len(subject):
        draw.text((GAP, GAP), "subject", INK, layout.small)
    for index in range(len(subject)):
        place = (GAP + index % across * (each + GAP), layout.head + GAP + index // across * (each + GAP))
        canvas.paste(_fitted(subject[index], each, each), place)


def _cell(picture: GridPicture | None, size: tuple[int, int], layout: _Layout, fit: bool) -> GridPicture:
    """A picture of the common size, or one that is fitted into it, in the cell's size."""
    if picture is None:
        return _missing(layout)
    if picture.size != size:
        if not fit:
            raise ValueError(
                f"the pictures have different sizes ({size[0]} x {size[1]} and {picture.width} x "
                f"{picture.height}); choose sizes = fit, or resize them first."
            )
        picture = _fitted(picture, *size)
    enlarged = layout.cell[0] >= size[0]
    return picture.resize(layout.cell, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _missing(layout: _Layout) -> GridPicture:
    """A cell that cannot be taken for a picture: pale, crossed out, with the word where there is room for it."""
    width, height = layout.cell
    canvas = Image.new("RGB", layout.cell, PALE)
    draw = ImageDraw.Draw(canvas)
    draw.line([(0, 0), (width - 1, height - 1)], CROSS)
    draw.line([(0, height - 1), (width - 1, 0)], CROSS)
    draw.rectangle([0, 0, width - 1, height - 1], outline=CROSS)
    left, top, right, bottom = draw.textbbox((width / 2, height / 2), "missing", layout.small, "mm")
    if right - left + 8 < width and bottom - top + 8 < height:
        draw.rectangle([left - 4, top - 4, right + 4, bottom + 4], fill=PALE)
        draw.text((width / 2, height / 2), "missing", FAINT, layout.small, "mm")
    return canvas


def _fitted(picture: GridPicture, width: int, height: int) -> GridPicture:
    """The whole picture, scaled into width x height, on white."""
    factor = min(width / picture.width, height / picture.height)
    inner = picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas


def wrap(text: str, font: Font, width: int, lines: int = 4, between: str = " ") -> list[str]:
    """Break a text at spaces into lines of at most `width` px; words that are too long and more lines are cut.

    between: what divides the words; with two spaces, single ones do not break.
    """
    result: list[str] = []
    for word in text.split() if between == " " else filter(None, text.split(between)):
        longer = f"{result[-1]}{between}{word}" if result else word
        if result and _width(longer, font) <= width:
            result[-1] = longer
        else:
            result.append(_cut(word, font, width))
    if len(result) > lines:
        result = [*result[: lines - 1], _cut(result[lines - 1] + "...", font, width)]
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
    """The height of one line."""
    return int(font.getbbox("Ag|")[3]) + 4


def _lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Font, colour: tuple[int, int, int]
) -> int:
    """Write lines downwards; returns the y below them."""
    for index, line in enumerate(lines):
        draw.text((place[0], place[1] + index * _step(font)), line, colour, font)
    return place[1] + len(lines) * _step(font)
