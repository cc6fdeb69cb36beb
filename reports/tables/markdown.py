"""The table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from .table import Table, TableCell, with_arrows


def markdown(table: Table, title: str = "") -> bytes:
    """The best of each column in bold, intervals in brackets; findings and notes below. UTF-8."""
    lines = [f"### {title}", ""] if title else []
    lines += [*rows(table), "", *(f"* {text}" for text in (table.legend, *table.findings) if text)]
    lines += ["", *(f"* {note}" for note in table.notes)]
    return ("\n".join(lines) + "\n").encode()


def rows(table: Table) -> list[str]:
    """The table's own lines, without a title and without what stands below."""
    rule = "|" + "".join("---|" if left else "---:|" for left in table.flush_left)
    return [_line(with_arrows(table)), rule, *(_line(map(_text, line)) for line in table.lines)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _text(entry: TableCell) -> str:
    text = f"**{entry.text}**" if entry.bold else entry.marked
    return f"{text} {entry.interval}" if entry.interval else text
