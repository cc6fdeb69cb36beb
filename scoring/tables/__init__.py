"""Tables of scores. A new form of output is one file here and one line in FORMS.

`html_file` is no form of its own: it makes a part of a page.
"""

from __future__ import annotations

from collections.abc import Callable

from .csv_file import csv_file
from .latex import latex
from .markdown import markdown
from .picture import png
from .table import Rows, Table, pivot, tabulate

Form = Callable[[Table, str], bytes]

FORMS: dict[str, Form] = {"png": png, "md": markdown, "csv": csv_file, "tex": latex}

__all__ = ["FORMS", "Form", "Rows", "Table", "pivot", "tabulate"]
