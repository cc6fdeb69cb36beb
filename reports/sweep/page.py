"""The report of a sweep as HTML pages that need nothing but their folder, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..arrangement import printed
from ..html import stream
from ..published_page import Section, section_lines
from ..tables.markdown import rows as markdown_rows
from ..tables.table import text_table
from .grids import Grid
from .material import Shown, SweepMaterial, named
from .pivot import Titled, counts
from .published import published_sections

PICTURES = "pictures"  # the folder of the pictures
TILES = 600  # cells with their pictures on one page
_LISTED = 200  # lines of a list
CHARTED = 20_000  # cells in the chart


@dataclass(frozen=True)
class Thumbnail:
    """A picture on a page. where: its file, from the page. text: what it is."""

    where: str
    text: str


@dataclass(frozen=True)
class Tile:
    """A cell on a page: its pictures, and the lines below them. labels, scores: by which it is filtered and sorted."""

    state: str
    pictures: list[Thumbnail]
    texts: list[str]
    labels: Mapping[str, str]
    scores: Mapping[str, float]


def pages(
    title: str,
    material: SweepMaterial,
    tables: Sequence[Titled],
    grids: Sequence[Grid],
    ready: Collection[str],
    files: Collection[str],
) -> Iterator[tuple[str, Iterator[str]]]:
    """The name and content of index.html, then of pictures-1.html and so on where there are more than TILES cells.

    ready: names of the pictures that are in the folder PICTURES. files: names of the files beside the page, which it
    links. Each content is made while it is read.
    """
    cells = [cell for cell in material.cells if cell.kind == "picture"]
    order = {row: place for place, row in enumerate(dict.fromkeys(cell.row for cell in cells))}
    cells.sort(key=lambda cell: order[cell.row])
    parts = [cells[first : first + TILES] for first in range(0, len(cells), TILES)]
    names = [f"pictures-{place}.html" for place in range(1, len(parts) + 1)] if len(parts) > 1 else []
    published = published_sections(material)
    yield (
        "index.html",
        stream(
            "sweep.html",
            title=title,
            sections=_sections(material, tables, published, grids, bool(_chart(cells, ready))),
            published=published,
            published_name=material.layout.published,
            tables=[
                {"title": one.title, "table": one.table, "files": [name for name in one.files if name in files]}
                for one in tables
            ],
            grids=grids,
            chart=_chart(cells, ready),
            pages=[(name, _range(part), len(part)) for name, part in zip(names, parts)],
            groups=_groups(cells, material, ready) if cells and not names else None,
            **_about_cells(material),
        ),
    )
    for place, (name, part) in enumerate(zip(names, parts)):
        near = [
            (names[there], word)
            for there, word in ((place - 1, "previous"), (place + 1, "next"))
            if 0 <= there < len(names)
        ]
        part_title = f"{title}: pictures {place + 1} of {len(names)}"
        yield name, stream("pictures.html", title=part_title, near=near, groups=_groups(part, material, ready))


def _about_cells(material: SweepMaterial) -> dict[str, Any]:
    """The values about the cells that the template of index.html needs."""
    failed, trained, every = _failed(material), material.unique("training"), material.unique()
    failures = [[_titled(cell), cell.state, str(cell.attempts), cell.error] for cell in failed[:_LISTED]]
    trainings = [
        [
            _titled(cell),
            cell.state,
            f"{cell.seconds:,.1f}",
            "" if cell.training_seconds is None else f"{cell.training_seconds:,.1f}",
            _memory(cell),
        ]
        for cell in trained[:_LISTED]
    ]
    numbers = ("seconds", "of them training", "highest memory, MiB")
    return {
        "counts": counts(material),
        "cells": len(every),
        "hours": sum(cell.seconds for cell in every) / 3600,
        "failures": text_table(["cell", "state", "attempts", "error"], failures),
        "more_failures": max(0, len(failed) - _LISTED),
        "problems": _limited(material.problems, "{} more"),
        "trainings": text_table(["cell", "state", *numbers], trainings, numbers),
        "more_trainings": max(0, len(trained) - _LISTED),
        "versions": _versions(material),
    }


def markdown_page(title: str, material: SweepMaterial, tables: Sequence[Titled], grids: Sequence[Grid]) -> bytes:
    """The report without the single pictures. `<` is escaped, as Markdown passes HTML on."""
    parts = [f"# {_flat(title)}\n"]
    parts += [one.form("md").decode() for one in tables]
    if published := published_sections(material):
        parts.append(f"## Beside published values: {_flat(material.layout.published)}\n")
        parts += ["\n".join(section_lines(section, 3)) for section in published]
    parts += ["## Grids\n"] if grids else []
    parts += [f"{_flat(grid.caption)}\n\n![grid]({grid.name})\n" for grid in grids]
    parts.append("\n".join(["## Cells", "", *markdown_rows(counts(material))]) + "\n")
    failed = [f"* {_titled(cell)}: {cell.state}: {_flat(cell.error)}" for cell in _failed(material)]
    if failed:
        parts.append("\n".join(["## Failures", "", *_limited(failed, "* {} more: see cells.csv")]) + "\n")
    if material.problems:
        parts.append(
            "\n".join(["## Problems", "", *_limited([f"* {_flat(text)}" for text in material.problems], "* {} more")])
            + "\n"
        )
    parts.append("\n".join(["## Made with", "", *(f"* {text}" for text in _versions(material))]) + "\n")
    return "\n".join(parts).replace("<", "&lt;").encode()


def _sections(
    material: SweepMaterial, tables: Sequence[Titled], published: Sequence[Section], grids: Sequence[Grid], chart: bool
) -> list[str]:
    """The sections of index.html, in order."""
    kinds = {cell.kind for cell in material.cells}
    there = {
        "Tables": tables,
        "Published": published,
        "Grids": grids,
        "Chart": chart,
        "Cells": True,
        "Failures": _failed(material),
        "Problems": material.problems,
        "Pictures": "picture" in kinds,
        "Trainings": "training" in kinds,
        "Versions": True,
    }
    return [name for name, content in there.items() if content]


def _groups(
    cells: Iterable[Shown], material: SweepMaterial, ready: Collection[str]
) -> Iterator[tuple[str, Iterator[Tile]]]:
    """The tiles of each row, made when they are asked for."""
    for row, group in groupby(cells, key=lambda cell: cell.row):
        yield row, (_tile(cell, material.layout.rows, ready) for cell in group)


def _tile(cell: Shown, rows: Sequence[str], ready: Collection[str]) -> Tile:
    pictures = [
        Thumbnail(f"{PICTURES}/{picture.name}", ", ".join(filter(None, (_about(cell), picture.title))))
        for picture in cell.pictures
        if picture.name in ready
    ]
    labels = [named(axis, label) for axis, label in cell.labels.items() if axis not in rows]
    numbers = [f"{name} {value:g}" for name, value in cell.numbers.items()]
    texts = [
        ", ".join(labels),
        *cell.scores.split("  "),
        *numbers,
        f"{cell.seconds:,.1f} s" if cell.state == "done" else "",
    ]
    return Tile(cell.state, pictures, [text for text in texts if text], cell.labels, _numbers(cell))


def _numbers(cell: Shown) -> dict[str, float]:
    """The scores and numbers of a cell by name, as far as JSON has them."""
    scores = {score.name: score.value for score in printed(cell.scores.split("  "))}
    return {name: value for name, value in {**cell.numbers, **scores}.items() if math.isfinite(value)}


def _chart(cells: Sequence[Shown], ready: Collection[str]) -> list[dict[str, Any]]:
    """What the page draws its chart of: cells with numbers, CHARTED at most."""
    charted: list[dict[str, Any]] = []
    for cell in cells:
        numbers = _numbers(cell)
        if numbers and cell.state == "done" and len(charted) < CHARTED:
            picture = next((picture.name for picture in cell.pictures if picture.name in ready), None)
            charted.append(
                {
                    "row": cell.row,
                    "labels": dict(cell.labels),
                    "scores": numbers,
                    "picture": picture and f"{PICTURES}/{picture}",
                }
            )
    return charted


def _failed(material: SweepMaterial) -> list[Shown]:
    return [cell for cell in material.unique() if cell.state in ("failed", "cancelled")]


def _about(cell: Shown) -> str:
    return ", ".join(named(axis, label) for axis, label in cell.labels.items()) or cell.kind


def _titled(cell: Shown) -> str:
    return f"{_about(cell)} ({cell.key})"


def _memory(cell: Shown) -> str:
    return ", ".join(f"{what} {size:,.0f}" for what, size in cell.memory.items())


def _range(cells: Sequence[Shown]) -> str:
    """The rows of a page of pictures."""
    rows = list(dict.fromkeys(cell.row or "all" for cell in cells))
    return rows[0] if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"


def _versions(material: SweepMaterial) -> list[str]:
    """The versions that the cells were run with, a line each with its number of cells."""
    cell_counts: dict[str, int] = {}
    for cell in material.unique():
        if cell.versions:
            text = ", ".join(f"{name} {value}" for name, value in cell.versions)
            text += f" (worker {cell.worker})" if cell.worker else ""
            cell_counts[text] = cell_counts.get(text, 0) + 1
    dates = sorted(cell.finished for cell in material.cells if cell.finished)
    lines = _limited([f"{text}: {count:,} cells" for text, count in cell_counts.items()], "{} more") or ["not known"]
    return [*lines, *([f"finished from {dates[0]} to {dates[-1]}"] if dates else [])]


def _limited(lines: Sequence[str], more: str) -> list[str]:
    """The first lines, `_LISTED` at most, and how many more there are."""
    hidden = len(lines) - _LISTED
    return [*lines[:_LISTED], *([more.format(f"{hidden:,}")] if hidden > 0 else [])]


def _flat(text: str) -> str:
    """A text in one line."""
    return " ".join(text.split())
