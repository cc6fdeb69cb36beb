"""A page that sets measured scores beside a published table, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..scoring.published import PublishedTable, RowKey
from ..scoring.scores import Scores
from .html import render
from .tables.markdown import rows as markdown_rows
from .tables.score_table import COST_COLUMNS, Column, ScoreCell, ScoreRow, ScoreTable
from .tables.scores import tabulate
from .tables.table import Table, TableCell, text_table

_HEADER = ("method", "rank", "subject", "published", "measured as", "measured", "difference")
NUMBERS = ("rank", "published", "measured", "difference")  # set flush right
LEADING = ("method", "rank", "measured as")  # of the table of costs
OF_MEANS = "95% interval of the measured mean"
_LISTED = 12  # of a longer list the report shows this many


@dataclass(frozen=True)
class Section:
    """A heading with warnings, sentences, a table, and list items, in this order."""

    heading: str
    warnings: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    table: Table | None = None
    items: tuple[str, ...] = ()


def report_page(scores: Scores, published: PublishedTable, title: str = "") -> str:
    """The page in Markdown. Raises ValueError as `tabulate` does."""
    lines = [f"# {title or published.name}", ""]
    for section in _sections(scores, published):
        lines += section_lines(section, 2)
    return "\n".join(lines)


def section_lines(section: Section, level: int) -> list[str]:
    """A section in Markdown, with a heading of that level."""
    lines = [f"{'#' * level} {section.heading}", ""]
    for warning in section.warnings:
        lines += [f"> **Warning:** {warning}", ""]
    for text in section.text:
        lines += [text, ""]
    if section.table:
        lines += [*markdown_rows(section.table), ""]
    if section.items:
        lines += [*(f"* {item}" for item in section.items), ""]
    return lines


def html_page(scores: Scores, published: PublishedTable, title: str = "") -> str:
    """The page as one HTML file that needs nothing else. Raises ValueError as `tabulate` does."""
    return render("published.html", title=title or published.name, sections=_sections(scores, published))


def _sections(scores: Scores, published: PublishedTable) -> Iterator[Section]:
    """The page, part by part."""
    table = tabulate(scores, "label x subject" if published.by_subject else "label")
    yield from beside(table, published)
    yield Section("How the measured numbers were made", items=(*table.notes, *_subjects(scores), *_provenance(scores)))


def beside(table: ScoreTable, published: PublishedTable, brackets: str = OF_MEANS) -> Iterator[Section]:
    """What compares a table of measured scores with a published one. brackets: what the intervals are of.

    table: of rows "label x subject" for a published table of subjects, else "label".
    """
    pairs = _pairs(table, published)
    count = sum(bool(rows) for rows in pairs.values())
    yield Section(
        "What is compared",
        text=(
            f"Published: {published.source}.",
            f"{count} of {len(pairs)} published rows have a measured one. Rows are matched by method (or label), rank "
            f"and subject; a label as the published one sets a row beside it. In brackets: {brackets}.",
        ),
    )
    for metric in published.metrics:
        columns = [column for column in table.columns if column.metric == metric]
        columns.sort(key=lambda column: bool(_mismatch(column, published)))
        if not columns:
            yield Section(metric, (f"{metric} was not measured.",), table=_beside(pairs, table, published, metric))
        for column in columns:
            wrong = _mismatch(column, published)
            yield Section(
                metric if len(columns) == 1 else f"{metric} ({column.protocol})",
                (wrong,) if wrong else (),
                table=_beside(pairs, table, published, metric, column),
            )
    if published.costs:
        yield Section("Costs", table=_costs(pairs, table, published))
    yield Section("Oddities of the published table", items=published.oddities)


def _pairs(table: ScoreTable, published: PublishedTable) -> dict[RowKey, list[ScoreRow]]:
    """The measured rows of each published row."""
    return {
        key: [row for row in table.rows if published.matches(key, row.label, row.method, row.rank, row.subject)]
        for key in published.values
    }


def _mismatch(column: Column, published: PublishedTable) -> str:
    """The reason why a measured column does not compare with the published table; "" if it does."""
    if column.protocol in (published.protocol, *published.also) and column.scale == published.scale:
        return ""
    return (
        f"{column.metric} was measured under the protocol {column.protocol} at scale {column.scale:g}, but the "
        f"published table is of {published.protocol} at scale {published.scale:g}. The numbers do not compare, and "
        "no difference is given."
    )


def _beside(
    pairs: Mapping[RowKey, Sequence[ScoreRow]],
    table: ScoreTable,
    published: PublishedTable,
    metric: str,
    column: Column | None = None,
) -> Table | None:
    """The table of one metric; None without a line."""
    lines = list(_lines(pairs, table, published, metric, column))
    return text_table(_HEADER, lines, NUMBERS) if lines else None


def _lines(
    pairs: Mapping[RowKey, Sequence[ScoreRow]],
    table: ScoreTable,
    published: PublishedTable,
    metric: str,
    column: Column | None,
) -> Iterator[tuple[str | TableCell, ...]]:
    """The lines under the header for one metric: the published ones, then the measured ones that are not published."""

    def cell(row: ScoreRow) -> ScoreCell | None:
        return row.cells[table.columns.index(column)] if column else None

    digits = f".{published.decimals}f"
    for key, rows in pairs.items():
        value = published.values[key].get(metric)
        measured = [(row, shown) for row in rows if (shown := cell(row))]
        for row, shown in measured:
            same = value is not None and column is not None and not _mismatch(column, published)
            yield (
                *_texts(key),
                "" if value is None else format(value, digits),
                row.name,
                _measured(shown, digits),
                format(shown.mean - value, "+" + digits) if same and value is not None else "",
            )
        if not measured and value is not None:
            yield *_texts(key), format(value, digits), "not measured", "", ""
    taken = [row for rows in pairs.values() for row in rows]
    for row in table.rows:
        if row not in taken and (shown := cell(row)):
            key = (row.method, row.rank, row.subject)
            yield *_texts(key), "not published", row.name, _measured(shown, digits), ""


def _costs(pairs: Mapping[RowKey, Sequence[ScoreRow]], table: ScoreTable, published: PublishedTable) -> Table:
    """The published costs, each with the mean of what was measured behind it."""
    columns = [
        column for column in COST_COLUMNS if any(column.number(cost) is not None for cost in published.costs.values())
    ]
    titles = [f"{column.title}{end}" for column in columns for end in (", published", ", measured")]
    lines = []
    for key, cost in published.costs.items():
        behind: list[ScoreRow | None] = [*pairs.get(key, ())]
        for row in behind or [None]:
            measured = dict(zip((column.title for column in table.cost_columns), row.costs)) if row else {}
            numbers = [
                (column, number) for column in columns for number in (column.number(cost), measured.get(column.title))
            ]
            lines.append(
                [
                    *_texts(key)[:2],
                    row.name if row else "not measured",
                    *("" if number is None else column.form.format(number) for column, number in numbers),
                ]
            )
    return text_table([*LEADING, *titles], lines, ["rank", *titles])


def _texts(key: RowKey) -> tuple[str, str, str]:
    method, rank, subject = key
    return method, "" if rank is None else str(rank), subject


def _measured(cell: ScoreCell, digits: str) -> TableCell:
    """A mean with its interval, with as many decimals as the published numbers."""
    mean = format(cell.mean, digits)
    if cell.low is None or cell.high is None:
        return TableCell(mean)
    return TableCell(mean, f"[{format(cell.low, digits)}, {format(cell.high, digits)}]")


def _subjects(scores: Scores) -> list[str]:
    """The subjects that the means are over."""
    subjects = dict.fromkeys(row.subject for row in scores.rows if row.subject)
    return [f"subjects: {_flat(list(subjects))}"] if subjects else []


def _provenance(scores: Scores) -> list[str]:
    """The provenance of the scores; where it differs, with the rows that it is of."""
    texts_by_key: dict[str, dict[str, list[str]]] = {}
    for row in scores.rows:
        for key, value in row.provenance.items():
            names = texts_by_key.setdefault(key, {}).setdefault(_flat(value), [])
            names += [row.label or row.method or "images"]
    return [
        f"{key}: "
        + "; ".join(
            text if len(texts) == 1 else f"{text} ({', '.join(dict.fromkeys(names))})"
            for text, names in list(texts.items())[:_LISTED]
        )
        + (f"; and {len(texts) - _LISTED} more" if len(texts) > _LISTED else "")
        for key, texts in texts_by_key.items()
    ]


def _flat(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return ", ".join(map(_flat, value[:_LISTED])) + more
    return str(value)
