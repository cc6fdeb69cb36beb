"""The table in Markdown."""

from __future__ import annotations

from .table import TIED, Cell, Table, interval_text, mean_text


def markdown(table: Table, title: str = "") -> bytes:
    """The best of each column in bold, intervals in brackets; findings and notes below. UTF-8."""
    lines = [f"### {title}", ""] if title else []
    lines += [line(list(table.titles)), "|" + "".join("---|" if left else "---:|" for left in table.flush_left)]
    lines += [line([*table.lead(row), *map(_cell, row.cells), *row.cost_texts]) for row in table.rows]
    lines += ["", *(f"* {text}" for text in (table.legend, *table.findings) if text)]
    lines += ["", *(f"* {note}" for note in table.notes)]
    return ("\n".join(lines) + "\n").encode()


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean = f"**{mean_text(cell)}**" if cell.best else f"{TIED if cell.tied else ''}{mean_text(cell)}"
    return f"{mean} {interval_text(cell)}".rstrip()
