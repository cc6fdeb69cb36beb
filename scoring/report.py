"""A page that sets measured scores beside a published table, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .published import Key, PublishedTable
from .scores import Scores
from .tables.markdown import line
from .tables.table import Cell, Column, Row, Table, tabulate

HEADER = ("method", "rank", "subject", "published", "measured as", "measured", "difference")
NUMBERS = ("rank", "published", "measured", "difference")  # set flush right
LISTED = 12  # of a longer list the report shows this many

STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 60em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.25em 0.9em; text-align: left; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.warning { background: #fff3cd; border-left: 4px solid #d39e00; padding: 0.5em 1em; }
"""


@dataclass(frozen=True)
class Section:
    """A heading with warnings, sentences, a table's rows under HEADER, and list items, in this order."""

    heading: str
    warnings: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    items: tuple[str, ...] = ()


def report_page(scores: Scores, published: PublishedTable, title: str = "") -> str:
    """The page in Markdown. Raises ValueError as `tabulate` does."""
    lines = [f"# {title or published.name}", ""]
    for section in _sections(scores, published):
        lines += [f"## {section.heading}", ""]
        for warning in section.warnings:
            lines += [f"> **Warning:** {warning}", ""]
        for text in section.text:
            lines += [text, ""]
        if section.rows:
            rule = "|" + "".join("---:|" if name in NUMBERS else "---|" for name in HEADER)
            lines += [line(list(HEADER)), rule, *(line(list(row)) for row in section.rows), ""]
        if section.items:
            lines += [*(f"* {item}" for item in section.items), ""]
    return "\n".join(lines)


def html_page(scores: Scores, published: PublishedTable, title: str = "") -> str:
    """The page as one HTML file that needs nothing else. Raises ValueError as `tabulate` does."""
    name = escape(title or published.name)
    body = [f"<h1>{name}</h1>"]
    for section in _sections(scores, published):
        body.append(f"<h2>{escape(section.heading)}</h2>")
        body += [f'<p class="warning"><b>Warning:</b> {escape(warning)}</p>' for warning in section.warnings]
        body += [f"<p>{escape(text)}</p>" for text in section.text]
        if section.rows:
            body += ["<table>", _html_line(HEADER, "th"), *(_html_line(row, "td") for row in section.rows), "</table>"]
        if section.items:
            body += ["<ul>", *(f"<li>{escape(item)}</li>" for item in section.items), "</ul>"]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f"<title>{name}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _html_line(cells: Sequence[str], tag: str) -> str:
    """A row of an HTML table."""
    kinds = [' class="number"' if name in NUMBERS else "" for name in HEADER]
    return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds)) + "</tr>"


def _sections(scores: Scores, published: PublishedTable) -> Iterator[Section]:
    """The page, part by part."""
    table = tabulate(scores, "label x subject" if published.by_subject else "label")
    pairs = _pairs(table, published)
    found = sum(bool(rows) for rows in pairs.values())
    yield Section(
        "What is compared",
        text=(
            f"Published: {published.source}.",
            f"{found} of {len(pairs)} published rows have a measured one. Rows are matched by method (or label), rank "
            "and subject; a label as the published one sets a row beside it. In brackets: 95% interval of the measured "
            "mean.",
        ),
    )
    for metric in published.metrics:
        columns = [column for column in table.columns if column.metric == metric]
        columns.sort(key=lambda column: bool(_mismatch(column, published)))
        if not columns:
            yield Section(metric, (f"{metric} was not measured.",), rows=tuple(_lines(pairs, table, published, metric)))
        for column in columns:
            wrong = _mismatch(column, published)
            yield Section(
                metric if len(columns) == 1 else f"{metric} ({column.protocol})",
                (wrong,) if wrong else (),
                rows=tuple(_lines(pairs, table, published, metric, column)),
            )
    yield Section("Oddities of the published table", items=published.oddities)
    yield Section("How the measured numbers were made", items=(*table.notes, *_subjects(scores), *_provenance(scores)))


def _pairs(table: Table, published: PublishedTable) -> dict[Key, list[Row]]:
    """The measured rows of each published row."""
    return {
        key: [row for row in table.rows if published.matches(key, row.label, row.method, row.rank, row.subject)]
        for key in published.values
    }


def _mismatch(column: Column, published: PublishedTable) -> str:
    """Why a measured column does not compare with the published table; "" if it does."""
    if (column.protocol, column.scale) == (published.protocol, published.scale):
        return ""
    return (
        f"{column.metric} was measured under the protocol {column.protocol} at scale {column.scale:g}, but the "
        f"published table is of {published.protocol} at scale {published.scale:g}. The numbers do not compare, and "
        "no difference is given."
    )


def _lines(
    pairs: Mapping[Key, Sequence[Row]],
    table: Table,
    published: PublishedTable,
    metric: str,
    column: Column | None = None,
) -> Iterator[tuple[str, ...]]:
    """Rows under HEADER for one metric: the published ones, then the measured ones that are not published."""

    def cell(row: Row) -> Cell | None:
        return row.cells[table.columns.index(column)] if column else None

    digits = f".{published.decimals}f"
    for key, rows in pairs.items():
        value = published.values[key].get(metric)
        known = [(row, shown) for row in rows if (shown := cell(row))]
        for row, shown in known:
            same = value is not None and column is not None and not _mismatch(column, published)
            yield (
                *_texts(key),
                "" if value is None else format(value, digits),
                row.name,
                _measured(shown, digits),
                format(shown.mean - value, "+" + digits) if same and value is not None else "",
            )
        if not known and value is not None:
            yield *_texts(key), format(value, digits), "not measured", "", ""
    taken = [row for rows in pairs.values() for row in rows]
    for row in table.rows:
        if row not in taken and (shown := cell(row)):
            key = (row.method, row.rank, row.subject)
            yield *_texts(key), "not published", row.name, _measured(shown, digits), ""


def _texts(key: Key) -> tuple[str, str, str]:
    method, rank, subject = key
    return method, "" if rank is None else str(rank), subject


def _measured(cell: Cell, digits: str) -> str:
    """A mean with its interval, with as many decimals as the published numbers."""
    mean = format(cell.mean, digits)
    return (
        mean
        if cell.low is None or cell.high is None
        else f"{mean} [{format(cell.low, digits)}, {format(cell.high, digits)}]"
    )


def _subjects(scores: Scores) -> list[str]:
    """Over what the means are."""
    found = dict.fromkeys(row.subject for row in scores.rows if row.subject)
    return [f"subjects: {_flat(list(found))}"] if found else []


def _provenance(scores: Scores) -> list[str]:
    """What the scores say of where they come from; where they differ, of which rows it is."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in scores.rows:
        for key, value in row.provenance.items():
            names = found.setdefault(key, {}).setdefault(_flat(value), [])
            names += [row.label or row.method or "images"]
    return [
        f"{key}: "
        + "; ".join(
            text if len(texts) == 1 else f"{text} ({', '.join(dict.fromkeys(names))})"
            for text, names in list(texts.items())[:LISTED]
        )
        + (f"; and {len(texts) - LISTED} more" if len(texts) > LISTED else "")
        for key, texts in found.items()
    ]


def _flat(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - LISTED} more" if len(value) > LISTED else ""
        return ", ".join(map(_flat, value[:LISTED])) + more
    return str(value)
