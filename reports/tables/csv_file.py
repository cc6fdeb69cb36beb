"""The table as CSV."""

from __future__ import annotations

import csv
import io

from .table import Table


def csv_file(table: Table, title: str = "") -> bytes:
    """The table as CSV: mean, low and high of each metric in separate columns, with all digits; empty without a value.

    CSV has no place for a title. UTF-8.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(table.csv_titles)
    for line in table.lines:
        writer.writerow([field for entry in line for field in ((entry.text,) if entry.exact is None else entry.exact)])
    return target.getvalue().encode()
