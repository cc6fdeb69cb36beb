"""A labelled grid of pictures: methods down, prompts across, the subject's own pictures at the side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from .letters import Colour, Lettering

VISIBLE = 160  # px: smaller pictures are enlarged by a whole factor to at least this width
SMALLEST = 16  # px: the longer side of the smallest cell that is still drawn
LABEL_WIDTH = 84  # px: what a label or a score needs to be read, however small the cell
BAR = 36  # px: the shortest bar that shows anything
_MAX_PIXELS = 40_000_000
GAP = 6  # px: the smallest
INK, FAINT, PAPER = (20, 20, 20), (90, 90, 90), (255, 255, 255)
PALE, CROSS = (246, 246, 246), (205, 205, 205)
BEST, BARS, TRACK = (22, 112, 62), (139, 155, 173), (232, 235, 239)  # of scores: the best's, the bars', their ground
_LEGEND = "bold green: the best of its column, the base apart"

GridPicture = Image.Image
_Item = TypeVar("_Item", covariant=True)


class PictureRow(Protocol[_Item]):
    """A sequence of RGB pictures, which may be made when they are asked for."""

    def __len__(self) -> int:
        """The number of pictures."""

    def __getitem__(self, index: int, /) -> _Item:
        """The picture at this place."""


GridRow = PictureRow[GridPicture | None]  # None is a missing one


@dataclass(frozen=True)
class GridScore:
    """A score as it is drawn: name, number, and a bar. share: the bar's length, 0 to 1. best: of its column."""

    name: str
    text: str
    share: float = 0.0
    best: bool = False


@dataclass(frozen=True)
class _Words:
    """All text of a grid: padded to its rows and columns."""

    row_labels: list[str]
    row_scores: list[Sequence[GridScore]]
    column_labels: list[str]
    cell_notes: list[list[str]]
    cell_scores: list[list[Sequence[GridScore]]]

    @property
    def scores(self) -> list[GridScore]:
        """All scores of the grid."""
        cells = [score for row in self.cell_scores for cell in row for score in cell]
        return [*cells, *(score for row in self.row_scores for score in row)]


@dataclass(frozen=True)
class _Layout:
    """The places of everything, in px. names, titles and prints are the wrapped lines of the words."""

    cell: tuple[int, int]
    gap: int
    room: int  # of a column
    tops: list[int]  # of the rows
    side: int  # left of the row labels
    side_room: int  # their width
    left: int  # left of the first column
    head: int
    size: tuple[int, int]  # of the whole picture
    label: Lettering
    small: Lettering
    strong: Lettering
    names: list[list[str]]
    titles: list[list[str]]
    prints: list[list[list[str]]]
    key: list[str]
    stack: tuple[int, int]  # side of a subject's picture, and how many stand beside each other

    @property
    def pixels(self) -> int:
        """The number of pixels of the whole picture."""
        return self.size[0] * self.size[1]

    def across(self, column: int) -> int:
        """The left of a column."""
        return self.left + column * (self.room + self.gap)


def comparison_grid(
    rows: Sequence[GridRow],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_scores: Sequence[Sequence[GridScore]] = (),
    subject: PictureRow[GridPicture] = (),
    fit: bool = False,
    cell_notes: Sequence[Sequence[str]] = (),
    cell_scores: Sequence[Sequence[Sequence[GridScore]]] = (),
    max_pixels: int = _MAX_PIXELS,
) -> np.ndarray:
    """Draw rows of RGB pictures with labels: uint8 [height, width, 3].

    row_scores: under each row label. cell_scores: under each picture, by row and column, each on a line of its own with
    a bar. cell_notes: small print under each picture; what two spaces divide is broken only there. subject: pictures at
    the left. None, what a shorter row lacks, and rows and columns that have only a label are drawn as missing cells.
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
    words = _Words(
        _padded(row_labels, height, ""),
        _padded(row_scores, height, ()),
        _padded(column_labels, width, ""),
        _padded([_padded(line, width, "") for line in cell_notes], height, [""] * width),
        _padded([_padded(line, width, ()) for line in cell_scores], height, [()] * width),
    )
    layout = _largest(size, max_pixels, lambda cell: _lay_out(cell, words, len(subject)))
    if layout is None:
        raise ValueError(
            f"{height} x {width} = {height * width:,} cells do not fit into {max_pixels:,} pixels at "
            f"{SMALLEST} px a cell and with their labels; make several grids with fewer rows or columns."
        )
    canvas = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_words(draw, layout, words)
    _draw_subject(canvas, draw, layout, subject)
    for row, top in enumerate(layout.tops):
        for column in range(width):
            # No name for the picture: it would keep it alive until the next one is there.
            canvas.paste(_cell(_at(rows, row, column), size, layout, fit), (layout.across(column), top))
    return np.array(canvas)


def _first_size(rows: Sequence[GridRow]) -> tuple[int, int]:
    """The width and height of the first picture. Raises ValueError if there is none."""
    for row in rows:
        for column in range(len(row)):
            picture = row[column]
            if picture is not None:
                return picture.size
    raise ValueError("images: there are no pictures to show.")


def _padded(items: Sequence[Any], count: int, empty: Any) -> list[Any]:
    return [*items, *[empty] * (count - len(items))]


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
    gap = max(GAP, height // 19)
    label, small = Lettering(max(16, height // 12), bold=True), Lettering(max(14, height // 15))
    strong = Lettering(small.size, bold=True)
    named = any(words.column_labels) or any(map(any, words.cell_notes)) or any(map(any, words.cell_scores))
    inside = [score for row in words.cell_scores for cell_ in row for score in cell_]
    room = max([width, LABEL_WIDTH * named, *(_needed(score, small, strong) for score in inside)])
    names = [label.wrap(text, room + room // 2) for text in words.row_labels]
    titles = [small.wrap(text, room) for text in words.column_labels]
    prints = [[small.wrap(note, room, 8, "  ") for note in line] for line in words.cell_notes]
    side = max(
        [label.width(line) for lines in names for line in lines]
        + [_needed(score, small, strong) + small.size for scores in words.row_scores for score in scores],
        default=0,
    )
    head = max(map(len, titles)) * small.step
    head = head + gap if head or not subjects else small.step + gap
    tops, top = [], head + gap
    for row, name in enumerate(names):
        tops.append(top)
        printed = max(map(len, prints[row])) * small.step + max(map(len, words.cell_scores[row])) * _line(small)
        label_height = len(name) * label.step + len(words.row_scores[row]) * small.step
        top += max(height + (printed + gap // 2 if printed else 0), label_height) + gap
    each, across = _stacked(subjects, max(width, LABEL_WIDTH), top - head - gap, gap)
    stack = max(across * (each + gap), small.width("subject") + gap) if subjects else 0
    left = gap + stack + (side + 2 * gap if side else 0)
    right = left + len(titles) * (room + gap)
    key = [_LEGEND] if any(score.best for score in words.scores) else []
    key = [line for text in key for line in small.wrap(text, right - 2 * gap)]
    bottom = top + len(key) * small.step + (gap if key else 0)
    return _Layout(
        cell,
        gap,
        room,
        tops,
        gap + stack,
        side,
        left,
        head,
        (right, bottom),
        label,
        small,
        strong,
        names,
        titles,
        prints,
        key,
        (each, across),
    )


def _needed(score: GridScore, small: Lettering, strong: Lettering) -> int:
    """The width of a score without a bar."""
    return small.width(score.name) + small.size // 2 + strong.width(score.text)


def _line(small: Lettering) -> int:
    """The height of a score's line under a picture."""
    return small.step + 2


def _stacked(count: int, width: int, height: int, gap: int) -> tuple[int, int]:
    """The side of the subject's pictures, and how many stand beside each other, so that they fill the height.

    They are at most half as large again as a cell, and stand in so many columns that they cover the most; in one where
    they can be that large in it.
    """
    best = (0, 0, 0)  # area, side, columns
    for across in range(1, count + 1):
        down = -(-count // across)
        each = min(width * 3 // 2, (height - gap * (down - 1)) // down)
        if across > 1 and across * each > 2 * width:  # in no more room than two cells have
            each = 2 * width // across
        best = max(best, (count * each * each, max(1, each), across), key=lambda one: (one[0], -one[2]))
    return best[1], best[2]


def _draw_words(draw: ImageDraw.ImageDraw, layout: _Layout, words: _Words) -> None:
    """Draw the labels, notes and scores."""
    small = layout.small
    names = max((small.width(score.name) for row in words.cell_scores for cell in row for score in cell), default=0)
    for column, lines in enumerate(layout.titles):  # the last line at the pictures
        top = layout.head + layout.gap // 2 - len(lines) * small.step
        _lines(draw, (layout.across(column), top), lines, small, INK)
    for row, top in enumerate(layout.tops):
        below = _lines(draw, (layout.side, top), layout.names[row], layout.label, INK)
        for score in words.row_scores[row]:
            _draw_score(draw, layout, (layout.side, below), layout.side_room, score)
            below += small.step
        for column, lines in enumerate(layout.prints[row]):
            place = (layout.across(column), top + layout.cell[1] + layout.gap // 2)
            below = _lines(draw, place, lines, small, FAINT)
            for score in words.cell_scores[row][column]:
                _draw_score(draw, layout, (place[0], below), layout.room, score, names)
                below += _line(small)
    _lines(draw, (layout.gap, layout.size[1] - layout.gap // 2 - len(layout.key) * small.step), layout.key, small, BEST)


def _draw_score(
    draw: ImageDraw.ImageDraw, layout: _Layout, place: tuple[int, int], width: int, score: GridScore, names: int = 0
) -> None:
    """Draw name, bar and number in a line of that width; no bar where it would be too short.

    names: the width of the names, behind which the bars begin; 0 draws no bar.
    """
    (left, top), small = place, layout.small
    font = layout.strong if score.best else small
    number = left + width - font.width(score.text)
    small.draw(draw, place, score.name, FAINT)
    font.draw(draw, (number, top), score.text, BEST if score.best else INK)
    # The numbers' room is that of bold ones, so that the bars of a column end at one place.
    start = left + names + small.size // 2
    end = left + width - layout.strong.width(score.text) - small.size // 2
    if names and end - start >= BAR:
        middle, half = top + small.step // 2, max(2, small.size // 5)
        draw.rectangle([start, middle - half, end, middle + half], fill=TRACK)
        if score.share > 0:
            filled = start + round((end - start) * min(score.share, 1.0))
            draw.rectangle([start, middle - half, filled, middle + half], fill=BEST if score.best else BARS)


def _draw_subject(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, layout: _Layout, subject: PictureRow[GridPicture]
) -> None:
    """Draw the subject's pictures at the left, shrunk into squares."""
    if not len(subject):
        return
    layout.small.draw(draw, (layout.gap, layout.head + layout.gap // 2 - layout.small.step), "subject", INK)
    each, across = layout.stack
    for index in range(len(subject)):
        down, right = divmod(index, across)
        place = (layout.gap + right * (each + layout.gap), layout.tops[0] + down * (each + layout.gap))
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
    inner = layout.small.width("missing")
    left, top = (width - inner) // 2, (height - layout.small.step) // 2
    if left > 4 and top > 0:
        draw.rectangle([left - 4, top, left + inner + 4, top + layout.small.step], fill=PALE)
        layout.small.draw(draw, (left, top), "missing", FAINT)
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


def _lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Lettering, colour: Colour
) -> int:
    """Write lines downwards; returns the y below them."""
    for index, line in enumerate(lines):
        font.draw(draw, (place[0], place[1] + index * font.step), line, colour)
    return place[1] + len(lines) * font.step
