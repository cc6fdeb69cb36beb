"""The table for Org mode."""

from __future__ import annotations

from collections.abc import Iterable

from .table import Table


def org(table: Table, title: str = "") -> bytes:
    """Means with intervals, the best of each column in bold. UTF-8."""
    lines = [f"#+TITLE: {title}"] if title else []
    lines += [_line(table.titles), "|-" + "+-" * (len(table.titles) - 1) + "|"]
    for entries in table.lines:
        texts = [f"*{entry.text}*" if entry.bold else entry.marked for entry in entries]
        lines.append(_line(f"{text} {entry.interval}".rstrip() for text, entry in zip(texts, entries)))
    return ("\n".join(lines) + "\n").encode()


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\vert{}") for cell in cells) + " |"
