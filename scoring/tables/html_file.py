"""The table as a part of an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .table import TIED, Cell, Table, interval_text, mean_text

OPEN = 4  # of more findings than these the list is folded up


def fragment(table: Table) -> str:
    """A `table` element and lists: the best of each column in bold, intervals small; legend, findings, notes below.

    Many findings are folded up. Cells that are numbers have the class `number`. All text is escaped.
    """
    left = table.flush_left
    lines = ["<table>", _line("th", left, [escape(title) for title in table.titles])]
    for row in table.rows:
        texts = [*table.lead(row), *row.cost_texts]
        leading = len(table.leading)
        lines.append(
            _line("td", left, [*map(escape, texts[:leading]), *map(_cell, row.cells), *map(escape, texts[leading:])])
        )
    lines.append("</table>")
    lines += [f'<p class="legend">{escape(table.legend)}</p>'] if table.legend else []
    findings = _list("findings", table.findings)
    if len(table.findings) > OPEN:
        findings = [f"<details><summary>{len(table.findings)} findings</summary>", *findings, "</details>"]
    lines += [*findings, *_list("notes", table.notes)]
    return "\n".join(lines) + "\n"


def _list(kind: str, texts: Sequence[str]) -> list[str]:
    """The lines of a list, none if it is empty."""
    return [f'<ul class="{kind}">', *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"] if texts else []


def _line(tag: str, left: Sequence[bool], cells: Sequence[str]) -> str:
    """A row; its cells are HTML already."""
    kinds = ["" if flush else ' class="number"' for flush in left]
    return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)) + "</tr>"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean = f"<b>{mean_text(cell)}</b>" if cell.best else TIED * cell.tied + mean_text(cell)
    around = interval_text(cell)
    return f"{mean} <small>{around}</small>" if around else mean
