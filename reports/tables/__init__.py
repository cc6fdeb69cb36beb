"""Tables: one structure (table.Table), one set of forms. A new form of output is one file here and one line in FORMS.

`html` is no form of its own: it makes a part of a page.
"""

from __future__ import annotations

from collections.abc import Callable

from .csv_file import csv_file
from .latex import latex
from .markdown import markdown
from .picture import png
from .score_table import ScoreTable
from .scores import Rows, pivot, tabulate
from .table import Table, TableCell, TextTable, text_table

Form = Callable[[Table, str], bytes]

FORMS: dict[str, Form] = {"png": png, "md": markdown, "csv": csv_file, "tex": latex}

__all__ = ["FORMS", "TableCell", "Form", "Rows", "ScoreTable", "Table", "TextTable", "pivot", "tabulate", "text_table"]
