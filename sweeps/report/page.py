"""The report as HTML pages that need nothing but their folder, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TextIO

from ...scoring.tables.html_file import fragment
from ...scoring.tables.markdown import line
from ..writing import link, writing
from .grids import Grid
from .pivot import Titled, counts
from .reading import Material, Picture, Shown
from .wanted import named

PICTURES = "pictures"  # the folder of the pictures
TILES = 600  # cells with their pictures on one page
LISTED = 200  # lines of a list

STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; background: #fff; margin: 2em auto; padding: 0 1.5em; max-width: 84em; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2em; border-bottom: 1px solid #ddd; }
nav a { margin-right: 1em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.7em 0; }
th, td { padding: 0.25em 0.9em 0.25em 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 3em; white-space: pre-line; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
th { vertical-align: bottom; max-width: 14em; }
td:first-child { min-width: 8em; }
small, .legend, .notes, .about { color: #555; }
.notes, .about { font-size: 0.85em; }
.grid img { max-width: 100%; height: auto; border: 1px solid #ddd; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tile { width: 190px; margin: 0; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
.tile img { width: 190px; height: 190px; object-fit: contain; background: #f4f4f4; display: block; }
.tile .more img { width: 58px; height: 58px; display: inline-block; }
.none { width: 190px; height: 190px; display: flex; align-items: center; justify-content: center; background: #f4f4f4;
  color: #777; border: 1px dashed #bbb; box-sizing: border-box; }
.failed .none, .bad { color: #a40000; }
pre { white-space: pre-wrap; margin: 0; font-size: 0.85em; }
"""


def write_pages(
    out: Path, title: str, material: Material, tables: Sequence[Titled], grids: Sequence[Grid]
) -> list[Path]:
    """Write index.html, and pictures-1.html and so on where there are more than TILES cells; index.html comes first."""
    cells = [cell for cell in material.cells if cell.kind == "picture"]
    order = {row: place for place, row in enumerate(dict.fromkeys(cell.row for cell in cells))}
    cells.sort(key=lambda cell: order[cell.row])
    parts = [cells[first : first + TILES] for first in range(0, len(cells), TILES)]
    pages = [out / f"pictures-{place}.html" for place in range(1, len(parts) + 1)] if len(parts) > 1 else []
    ready = _link_pictures(material, out / PICTURES)
    with writing(out / "index.html") as file:
        _start(file, title)
        file.write(
            f"<h1>{escape(title)}</h1>\n<nav>"
            + "".join(f'<a href="#{name.lower()}">{name}</a>' for name in _sections(material, tables, grids))
            + "</nav>\n"
        )
        _tables(file, tables, out)
        _grids(file, grids)
        _counts(file, material)
        _failures(file, material)
        if cells:
            file.write('<h2 id="pictures">Pictures</h2>\n')
        if pages:
            file.write(
                "<ul>"
                + "".join(
                    f'<li><a href="{page.name}">{escape(_range(part))}</a> ({len(part)} cells)</li>\n'
                    for page, part in zip(pages, parts)
                )
                + "</ul>\n"
            )
        elif cells:
            _tiles(file, cells, material, ready)
        _trainings(file, material)
        _made(file, material)
        file.write("</body>\n</html>\n")
    for place, (page, part) in enumerate(zip(pages, parts)):
        near = [
            (pages[there], word)
            for there, word in ((place - 1, "previous"), (place + 1, "next"))
            if 0 <= there < len(pages)
        ]
        with writing(page) as file:
            _start(file, f"{title}: pictures {place + 1} of {len(pages)}")
            file.write(
                '<nav><a href="index.html">report</a>'
                + "".join(f'<a href="{other.name}">{word}</a>' for other, word in near)
                + "</nav>\n"
            )
            _tiles(file, part, material, ready)
            file.write("</body>\n</html>\n")
    return [out / "index.html", *pages]


def markdown_page(title: str, material: Material, tables: Sequence[Titled], grids: Sequence[Grid]) -> bytes:
    """The report without the single pictures. `<` is escaped, as Markdown passes HTML on."""
    parts = [f"# {_flat(title)}\n"]
    parts += [one.form("md").decode() for one in tables]
    parts += [
        f"## Grids\n\n{_flat(grid.caption)}\n\n![grid]({grid.path.name})\n"
        if place == 0
        else f"{_flat(grid.caption)}\n\n![grid]({grid.path.name})\n"
        for place, grid in enumerate(grids)
    ]
    header, *rows = counts(material)
    parts.append(
        "\n".join(["## Cells", "", line(header), "|" + "---|" * 2 + "---:|" * (len(header) - 2), *map(line, rows)])
        + "\n"
    )
    failed = [f"* {_about(cell)} ({cell.key}): {cell.state}: {_flat(cell.error)}" for cell in _failed(material)]
    if failed:
        parts.append("\n".join(["## Failures", "", *_limited(failed, "* {} more: see cells.csv")]) + "\n")
    if material.problems:
        parts.append(
            "\n".join(["## Problems", "", *_limited([f"* {_flat(text)}" for text in material.problems], "* {} more")])
            + "\n"
        )
    parts.append("\n".join(["## Made with", "", *(f"* {text}" for text in _versions(material))]) + "\n")
    return "\n".join(parts).replace("<", "&lt;").encode()


def _start(file: TextIO, title: str) -> None:
    file.write(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
    )


def _sections(material: Material, tables: Sequence[Titled], grids: Sequence[Grid]) -> list[str]:
    """What index.html has, in order."""
    kinds = {cell.kind for cell in material.cells}
    there = {
        "Tables": tables,
        "Grids": grids,
        "Cells": True,
        "Failures": _failed(material),
        "Problems": material.problems,
        "Pictures": "picture" in kinds,
        "Trainings": "training" in kinds,
        "Versions": True,
    }
    return [name for name, content in there.items() if content]


def _tables(file: TextIO, tables: Sequence[Titled], out: Path) -> None:
    if tables:
        file.write('<h2 id="tables">Tables</h2>\n')
    for one in tables:
        links = [
            f'<a href="{name}">{name}</a>' for name in (f"{one.name}.csv", f"{one.name}.png") if (out / name).exists()
        ]
        file.write(
            f'<h3>{escape(one.title)}</h3>\n<div class="wide">{fragment(one.table)}</div>\n'
            f'<p class="about">{" ".join(links)}</p>\n'
        )
    if tables:
        file.write(
            '<p class="about">All tables: <a href="report.md">report.md</a> <a href="table.tex">table.tex</a>; '
            'each score with its settings: <a href="scores.jsonl">scores.jsonl</a></p>\n'
        )


def _grids(file: TextIO, grids: Sequence[Grid]) -> None:
    if grids:
        file.write('<h2 id="grids">Grids</h2>\n')
    for grid in grids:
        file.write(
            f'<figure class="grid"><figcaption>{escape(grid.caption)}</figcaption><a href="{grid.path.name}">'
            f'<img loading="lazy" src="{grid.path.name}" alt="{escape(grid.caption or "grid")}"></a></figure>\n'
        )


def _counts(file: TextIO, material: Material) -> None:
    header, *rows = counts(material)
    file.write('<h2 id="cells">Cells</h2>\n')
    _table(file, header, rows, 2)
    cells = material.unique()
    hours = sum(cell.seconds for cell in cells) / 3600
    file.write(
        f'<p class="about">{len(cells):,} cells, {hours:,.2f} hours in all. Each of them: '
        '<a href="cells.csv">cells.csv</a></p>\n'
    )


def _failures(file: TextIO, material: Material) -> None:
    failed = _failed(material)
    if failed:
        file.write('<h2 id="failures">Failures</h2>\n')
        rows = [[f"{_about(cell)} ({cell.key})", cell.state, str(cell.attempts), cell.error] for cell in failed]
        _table(file, ["cell", "state", "attempts", "error"], rows[:LISTED], 4)
        if len(failed) > LISTED:
            file.write(f'<p>{len(failed) - LISTED:,} more: see <a href="cells.csv">cells.csv</a>.</p>\n')
    if material.problems:
        file.write(
            '<h2 id="problems">Problems</h2>\n<ul class="bad">'
            + "".join(f"<li>{escape(text)}</li>\n" for text in _limited(material.problems, "{} more"))
            + "</ul>\n"
        )


def _trainings(file: TextIO, material: Material) -> None:
    cells = material.unique("training")
    if cells:
        file.write('<h2 id="trainings">Trainings</h2>\n')
        _table(
            file,
            ["cell", "state", "seconds", "of them training", "highest memory, MiB"],
            [
                [
                    f"{_about(cell)} ({cell.key})",
                    cell.state,
                    f"{cell.seconds:,.1f}",
                    "" if cell.training_seconds is None else f"{cell.training_seconds:,.1f}",
                    _memory(cell),
                ]
                for cell in cells[:LISTED]
            ],
            2,
        )
        if len(cells) > LISTED:
            file.write(f'<p>{len(cells) - LISTED:,} more: see <a href="cells.csv">cells.csv</a>.</p>\n')


def _made(file: TextIO, material: Material) -> None:
    file.write(
        '<h2 id="versions">Versions</h2>\n<ul>'
        + "".join(f"<li>{escape(text)}</li>\n" for text in _versions(material))
        + "</ul>\n"
    )


def _tiles(file: TextIO, cells: Iterable[Shown], material: Material, ready: set[str]) -> None:
    """Cells with their pictures, below the name of their row."""
    row: str | None = None
    for cell in cells:
        if cell.row != row:
            file.write(
                ("</div>\n" if row is not None else "") + f'<h3>{escape(cell.row or "all")}</h3>\n<div class="tiles">\n'
            )
            row = cell.row
        file.write(_tile(cell, material.layout.rows, ready))
    file.write("</div>\n" if row is not None else "")


def _tile(cell: Shown, rows: Sequence[str], ready: set[str]) -> str:
    pictures = [picture for picture in cell.pictures if picture.name in ready]
    first = (
        _thumbnail(pictures[0], cell)
        if pictures
        else (f'<div class="none">{escape("no picture" if cell.state == "done" else cell.state)}</div>')
    )
    more = (
        f'<div class="more">{"".join(_thumbnail(picture, cell) for picture in pictures[1:])}</div>'
        if len(pictures) > 1
        else ""
    )
    others = [named(axis, label) for axis, label in cell.labels.items() if axis not in rows]
    numbers = [f"{name} {value:g}" for name, value in cell.numbers.items()]
    texts = [
        ", ".join(others),
        *cell.scores.split("  "),
        *numbers,
        f"{cell.seconds:,.1f} s" if cell.state == "done" else "",
    ]
    return (
        f'<figure class="tile {"failed" if cell.state == "failed" else ""}">{first}{more}<figcaption>'
        + "<br>".join(escape(text) for text in texts if text)
        + "</figcaption></figure>\n"
    )


def _thumbnail(picture: Picture, cell: Shown) -> str:
    where = f"{PICTURES}/{picture.name}"
    text = escape(", ".join(filter(None, (_about(cell), picture.title))))
    return f'<a href="{where}"><img loading="lazy" src="{where}" alt="{text}" title="{text}"></a>'


def _link_pictures(material: Material, folder: Path) -> set[str]:
    """Put all pictures into the folder; returns the names of those that are there. Others become problems."""
    ready: set[str] = set()
    for cell in material.cells:
        for picture in cell.pictures:
            if picture.name in ready:
                continue
            folder.mkdir(exist_ok=True)
            try:
                link(picture.path, folder / picture.name)
                ready.add(picture.name)
            except OSError as error:
                material.problems.append(f"{picture.path} cannot be read ({error.strerror}), and is not shown.")
    return ready


def _table(file: TextIO, header: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> None:
    """A plain table; its first columns are texts, the others numbers."""

    def cells(tag: str, row: Sequence[str]) -> Iterator[str]:
        for place, text in enumerate(row):
            kind = ' class="number"' if place >= texts else ""
            yield f"<{tag}{kind}>{escape(text)}</{tag}>"

    file.write(
        '<div class="wide"><table>\n'
        + "".join(
            f"<tr>{''.join(cells(tag, row))}</tr>\n" for tag, lines in (("th", [header]), ("td", rows)) for row in lines
        )
        + "</table></div>\n"
    )


def _failed(material: Material) -> list[Shown]:
    return [cell for cell in material.unique() if cell.state in ("failed", "cancelled")]


def _about(cell: Shown) -> str:
    return ", ".join(named(axis, label) for axis, label in cell.labels.items()) or cell.kind


def _memory(cell: Shown) -> str:
    return ", ".join(f"{what} {size:,.0f}" for what, size in cell.memory.items())


def _range(cells: Sequence[Shown]) -> str:
    """The rows of a page of pictures."""
    rows = list(dict.fromkeys(cell.row or "all" for cell in cells))
    return rows[0] if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"


def _versions(material: Material) -> list[str]:
    """What the cells were made with, each kind of it in a line with its number of cells."""
    found: dict[str, int] = {}
    for cell in material.unique():
        if cell.versions:
            text = ", ".join(f"{name} {value}" for name, value in cell.versions)
            text += f" (worker {cell.worker})" if cell.worker else ""
            found[text] = found.get(text, 0) + 1
    dates = sorted(cell.finished for cell in material.cells if cell.finished)
    lines = _limited([f"{text}: {count:,} cells" for text, count in found.items()], "{} more") or ["not known"]
    return [*lines, *([f"finished from {dates[0]} to {dates[-1]}"] if dates else [])]


def _limited(lines: Sequence[str], more: str) -> list[str]:
    """The first LISTED lines, and how many more there are."""
    rest = len(lines) - LISTED
    return [*lines[:LISTED], *([more.format(f"{rest:,}")] if rest > 0 else [])]


def _flat(text: str) -> str:
    """A text in one line."""
    return " ".join(text.split())
