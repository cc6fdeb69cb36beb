"""The table as a part of an HTML page."""

from __future__ import annotations

from ..html import render
from .table import Table


def fragment(table: Table) -> str:
    """A `table` element and lists: the best of each column in bold, intervals small; legend, findings, notes below.

    Many findings are folded up. Cells that are numbers have the class `number`. All text is escaped.
    """
    return render("fragment.html", table=table)
