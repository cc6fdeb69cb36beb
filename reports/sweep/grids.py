"""Comparison grids from the pictures of a store, opened one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from ...scoring.pictures import FilePictures
from ...scoring.scores import Score, Scores
from ..arrangement import Printed, compared, printed, row_scores
from ..grid import comparison_grid
from ..letters import warning
from ..reference import is_base
from .material import CellPicture, Shown, SweepMaterial, joined

PAGE_ROWS, PAGE_COLUMNS = 12, 10
_MAX_PIXELS = 16_000_000  # of a grid
MAX_GRIDS = 40


@dataclass(frozen=True)
class Grid:
    """A grid's file, and what it shows in a line. keys: of its cells."""

    name: str
    caption: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Page:
    """The content of one grid. means: of the rows. cells: by row and column, None where the plan has none."""

    rows: list[str]
    means: list[tuple[Printed, ...]]
    columns: list[str]
    cells: list[list[Shown | None]]
    caption: str


class _Row:
    """A row's pictures, opened when they are asked for; None for what is missing or cannot be read."""

    def __init__(self, paths: list[Path | None], problems: dict[str, None]) -> None:
        self.paths, self.problems = paths, problems

    def __len__(self) -> int:
        """The number of columns."""
        return len(self.paths)

    def __getitem__(self, column: int) -> Image.Image | None:
        """The picture of a column."""
        path = self.paths[column]
        if path is None:
            return None
        try:
            return FilePictures([path])[0]
        except ValueError as error:
            self.problems[str(error)] = None
            return None


def draw_grids(material: SweepMaterial) -> Iterator[tuple[Grid, bytes]]:
    """Draw grid-1.png, grid-2.png and so on as PNG files, one for each subject unless an axis of the grid says it.

    A cell shows the first picture that the plan has there (as the first seed) and is drawn as missing where that has
    not been made; its scores are below it. Large grids are divided. What cannot be shown becomes a problem.
    """
    title = picture_title(material)
    if title is None:
        return
    problems: dict[str, None] = {}
    count = left_out = 0
    for page in _pages(material):
        pictures = [[shown_picture(cell, title) for cell in row] for row in page.cells]
        if not any(picture for row in pictures for picture in row):
            continue
        if count == MAX_GRIDS:
            left_out += 1
            continue
        rows = [_Row([picture.path if picture else None for picture in row], problems) for row in pictures]
        scores = [
            [printed(cell.scores.split("  ")) if cell and picture else () for cell, picture in zip(line, row)]
            for line, row in zip(page.cells, pictures)
        ]
        base = [is_base(name) for name in page.rows]
        lacking = warning([*page.rows, *page.columns])
        problems |= {lacking: None} if lacking else {}
        try:
            drawn = comparison_grid(
                rows,
                page.rows,
                page.columns,
                [row[0] for row in compared([[means] for means in page.means], base)],
                fit=True,
                cell_scores=compared(scores, base),
                max_pixels=_MAX_PIXELS,
            )
        except ValueError as error:
            problems[f"{page.caption or 'A grid'} is not drawn: {error}"] = None
            continue
        target = BytesIO()
        Image.fromarray(drawn).save(target, "PNG")
        count += 1
        keys = tuple(cell.key for row in page.cells for cell in row if cell)
        yield Grid(f"grid-{count}.png", page.caption, keys), target.getvalue()
    material.problems += problems
    if left_out:
        material.problems.append(
            f"{left_out} more grids are not drawn, as there are {MAX_GRIDS} already; choose other "
            "grid rows and columns."
        )


def picture_title(material: SweepMaterial) -> str | None:
    """The title of the node whose pictures the grids show; None if there are none, which is a problem if any exist."""
    titles = dict.fromkeys(
        picture.title for cell in material.cells if cell.kind == "picture" for picture in cell.pictures
    )
    chosen = material.layout.picture or next(iter(titles), None)
    if chosen not in titles:
        if titles:
            material.problems.append(
                f"No cell has pictures of a node {chosen!r}, so there are no grids; there are "
                f"{', '.join(map(repr, titles))}."
            )
        return None
    return chosen


def shown_picture(cell: Shown | None, title: str) -> CellPicture | None:
    """The first picture of that node."""
    return next((picture for picture in cell.pictures if picture.title == title), None) if cell else None


def _pages(material: SweepMaterial) -> Iterator[_Page]:
    """The grids, subject by subject, each divided into pages."""
    layout = material.layout
    cells = [cell for cell in material.cells if cell.kind == "picture"]
    used = {*layout.grid_rows, *layout.grid_columns}
    by = [material.subject] if material.subject and material.subject not in used else []
    means = _row_means(material, bool(by))
    groups: dict[str, list[Shown]] = {}
    for cell in cells:
        groups.setdefault("".join(cell.labels.get(axis, "") for axis in by), []).append(cell)
    for subject, group in groups.items():
        first: dict[tuple[str, str], Shown] = {}
        for cell in group:
            first.setdefault((joined(cell.labels, layout.grid_rows), joined(cell.labels, layout.grid_columns)), cell)
        rows, columns = (list(dict.fromkeys(place[index] for place in first)) for index in (0, 1))
        caption = ", ".join(_common([cell.labels for cell in first.values()], used))
        parts = [
            (down, across) for down in range(0, len(rows), PAGE_ROWS) for across in range(0, len(columns), PAGE_COLUMNS)
        ]
        for place, (down, across) in enumerate(parts, 1):
            names, titles = rows[down : down + PAGE_ROWS], columns[across : across + PAGE_COLUMNS]
            part = f"part {place} of {len(parts)}" if len(parts) > 1 else ""
            yield _Page(
                names,
                [means.get((row, subject), ()) for row in names],
                titles,
                [[first.get((row, column)) for column in titles] for row in names],
                ", ".join(filter(None, (caption, part))),
            )


def _common(labels: Sequence[Mapping[str, str]], used: set[str]) -> list[str]:
    """The labels that all cells of a grid share on the axes that it does not show."""
    axes = dict.fromkeys(axis for cell in labels for axis in cell if axis not in used)
    return [joined(labels[0], [axis]) for axis in axes if len({cell.get(axis) for cell in labels}) == 1]


def _row_means(material: SweepMaterial, by_subject: bool) -> dict[tuple[str, str], tuple[Printed, ...]]:
    """The means of each (row, subject), where the grid's rows are the table's; subject: "" if not split."""
    if material.layout.grid_rows != material.layout.rows:
        return {}
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in material.once(material.scores).rows:
        groups.setdefault((score.label, score.subject if by_subject else ""), []).append(score)
    return {place: row_scores(Scores(tuple(group)), 0).means for place, group in groups.items()}
