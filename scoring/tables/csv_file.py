"""The table as CSV."""

from __future__ import annotations

import csv
import io

from .table import Table


def csv_file(table: Table, title: str = "") -> bytes:
    """Mean, low and high of each metric in columns of their own, with all digits; empty fields where there is no value.

    CSV has no place for a title. UTF-8.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    metrics = [f"{column.title}{end}" for column in table.columns for end in ("", " low", " high")]
    writer.writerow([*table.leading, *metrics, *table.cost_titles])
    for row in table.rows:
        values = [value for cell in row.cells for value in ((cell.mean, cell.low, cell.high) if cell else (None,) * 3)]
        writer.writerow([*table.lead(row), *("" if value is None else repr(value) for value in (*values, *row.costs))])
    return target.getvalue().encode()
