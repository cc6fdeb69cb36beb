"""Writes the whole report into a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ...disk.errors import NotWritten, named
from ...reports.sweep.grids import Grid, draw_grids
from ...reports.sweep.material import Layout, SweepMaterial
from ...reports.sweep.page import PICTURES, markdown_page, pages
from ...reports.sweep.pivot import Titled, cells_table, tables
from ...reports.tables import FORMS
from ..png import with_text
from ..writing import link, tidy, write, writing
from .cells import ReportCell, completed, values_of
from .reading import read

KEYWORD = "deft_sweep"
MAX_KEYS = 1000  # in a picture's deft_sweep
_OURS = re.compile(r"grid-\d+\.png|pictures-\d+\.html|(scores|numbers)(-[0-9A-Za-z-]*)?\.(csv|png)")


def write_report(cells: Sequence[ReportCell], out: Path, title: str, layout: Layout) -> list[Path]:
    """Write the report of these cells into the folder `out`, which is made; returns its files, index.html first.

    index.html shows everything; pictures/ holds the pictures (as hard links where the file system can do that, and not
    among the returned files), so that the folder can be moved. report.md and table.tex hold the tables as text,
    scores.csv (and a CSV for each other table) their numbers, scores.jsonl each score with all settings, cells.csv
    each cell; grid-1.png and so on are the grids, scores.png the table as a picture. Files of an earlier report are
    replaced, and those that this one no longer has are removed, except for pictures. Records are read one at a time.
    Raises ValueError for no cells, and for an axis of the layout that no cell has. What is damaged in the store is
    skipped, and named in the report under Problems.
    """
    if not cells:
        raise ValueError("there are no cells to report; check the plan's axes and its exclude.")
    layout = completed(layout, cells)
    with named(out):
        out.mkdir(parents=True, exist_ok=True)
    for folder in (out, out / PICTURES):
        tidy(folder)
    with writing(out / "scores.jsonl") as target:
        material = read(cells, layout, target)
    written = [
        out / "scores.jsonl",
        write(out / "cells.csv", FORMS["csv"](cells_table(material, list(values_of(cells))), "")),
    ]
    shown = tables(material)
    written += _write_tables(shown, material, out)
    grids = _write_grids(material, out)
    written += [out / grid.name for grid in grids]
    for path in sorted(out.iterdir()):  # before the pages, which link what is there
        if _OURS.fullmatch(path.name) and path not in written:
            path.unlink()
    ready = _link_pictures(material, out / PICTURES)
    shown_pages = []
    for name, content in pages(title, material, shown, grids, ready, {path.name for path in written}):
        with writing(out / name) as file:
            file.writelines(content)
        shown_pages.append(out / name)
    written.append(write(out / "report.md", markdown_page(title, material, shown, grids)))
    return [*shown_pages, *written]


def _write_grids(material: SweepMaterial, out: Path) -> list[Grid]:
    """The grids' pictures, each written before the next one is drawn."""
    grids = []
    axes = {"rows": material.layout.grid_rows, "columns": material.layout.grid_columns}
    for grid, picture in draw_grids(material):
        about = sweep_text(grid.keys, {**axes, "shown": grid.caption})
        write(out / grid.name, with_text(picture, {KEYWORD: about}))
        grids.append(grid)
    return grids


def _link_pictures(material: SweepMaterial, folder: Path) -> set[str]:
    """Put all pictures into the folder; returns the names of those that are there. Missing ones become problems."""
    ready: set[str] = set()
    for cell in material.cells:
        for picture in cell.pictures:
            if picture.name in ready:
                continue
            try:
                link(picture.path, folder / picture.name)
                ready.add(picture.name)
            except NotWritten as error:
                material.problems.append(f"{error} {picture.path} is not shown.")
            except OSError as error:
                material.problems.append(f"{picture.path} cannot be read ({error.strerror}), and is not shown.")
    return ready


def sweep_text(keys: Sequence[str], axes: dict[str, object]) -> str:
    """The content of a picture's `deft_sweep`: which cells it shows (the first MAX_KEYS of them), and along what."""
    keys = list(dict.fromkeys(keys))
    return json.dumps({"cells": keys[:MAX_KEYS], "more": max(0, len(keys) - MAX_KEYS), "axes": axes})


def _write_tables(shown: Sequence[Titled], material: SweepMaterial, out: Path) -> list[Path]:
    """Every table as CSV and, if it is small enough, as a picture; all of them in table.tex."""
    written = []
    about = sweep_text(
        [cell.key for cell in material.cells], {"rows": material.layout.rows, "columns": material.layout.columns}
    )
    for one in shown:
        written.append(write(out / f"{one.name}.csv", one.form("csv")))
        if one.drawable:
            written.append(write(out / f"{one.name}.png", with_text(one.form("png"), {KEYWORD: about})))
    tex = b"\n".join(one.form("tex") for one in shown) or b"% There are no scores and no numbers.\n"
    return [*written, write(out / "table.tex", tex)]
