"""A table of scores: methods down, metrics or the values of something else across."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ...scoring.metrics import better, order
from ...scoring.scores import Cost, Score, Scores, score_text
from ...scoring.statistics import Values, by_prompt, group_count, interval
from ..reference import is_base
from .findings import FEW_PROMPTS, FEW_TEXT, NOTHING_TO_COMPARE, against, judge
from .table import DOWN, TIED, UP, TableCell

Rows = Literal["label", "label x subject"]


@dataclass(frozen=True)
class CostColumn:
    """A column of costs. csv_title: in a CSV file, as programs have always read it. form: how people read a number."""

    title: str
    csv_title: str
    form: str
    number: Callable[[Cost], float | None]


# The first three are there for any adapter; the others where one row at least has them.
_ALWAYS = 3
COST_COLUMNS = (
    CostColumn("training s", "training s", "{:.0f}", lambda cost: cost.training_seconds),
    CostColumn("trained parameters", "values", "{:,.0f}", lambda cost: cost.values),
    CostColumn("file MiB", "MiB", "{:.3f}", lambda cost: None if cost.bytes is None else cost.bytes / 2**20),
    CostColumn("s a step", "s a step", "{:.3g}", lambda cost: cost.seconds_a_step),
    CostColumn(
        "peak MiB", "peak MiB", "{:,.0f}", lambda cost: None if cost.peak_bytes is None else cost.peak_bytes / 2**20
    ),
)


@dataclass(frozen=True)
class ScoreCell:
    """The mean over all values of a row and metric, its 95 % interval (None for a single value), and their count.

    best: of its column, and of its subject where the rows are split by it. tied: not distinguishable from the best.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    best: bool = False
    tied: bool = False


@dataclass(frozen=True)
class Column:
    """A metric under a protocol. title: with the protocol only where the table has several.

    measurement: how it was measured. across: of a pivot, the value that this column is of, and the title; else None.
    """

    title: str
    metric: str
    protocol: str
    scale: float
    measurement: str
    across: str | None = None

    @property
    def what(self) -> str:
        """The name of the column in a sentence."""
        return self.title if self.across is None else f"{self.metric}, {self.across}"


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table. name: its title; label, method: those of the scores. subject: "" where subjects are averaged.

    costs: a number for each of the table's `cost_columns`, None for what is not known. base: whether it is the base
    model's, the reference of the others.
    """

    name: str
    label: str
    method: str
    rank: int | None
    subject: str
    images: int
    cells: tuple[ScoreCell | None, ...]
    costs: tuple[float | None, ...] = ()
    base: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores, which every form writes (see table.Table).

    findings: sentences about the numbers. notes: how each column was measured, and remarks of the scores.

    heading: what the names of the rows are. counted: what each row's number of images is called. compared: whether
    there is a good direction.
    """

    columns: tuple[Column, ...]
    rows: tuple[ScoreRow, ...]
    by_subject: bool
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    heading: str = "method"
    counted: str = "images"
    compared: bool = True
    cost_columns: tuple[CostColumn, ...] = ()

    @property
    def arrows(self) -> tuple[str, ...]:
        """The good direction of each metric."""
        arrows = [UP if better(column.metric) == "higher" else DOWN for column in self.columns]
        lead, costs = ("",) * len(self.leading), ("",) * len(self.cost_titles)
        return *lead, *(arrows if self.compared else [""] * len(arrows)), *costs

    @property
    def apart(self) -> int:
        """The number of the base's rows at the top."""
        first = next((place for place, row in enumerate(self.rows) if not row.base), 0)
        return 0 if self.by_subject else first

    @property
    def leading(self) -> tuple[str, ...]:
        """The titles of the columns before the metrics."""
        ranked = any(row.rank is not None for row in self.rows)
        return self.heading, *(("rank",) if ranked else ()), *(("subject",) if self.by_subject else ()), self.counted

    def lead(self, row: ScoreRow) -> list[str]:
        """The entries of a row under `leading`."""
        ranked = ["" if row.rank is None else str(row.rank)] if "rank" in self.leading[1:] else []
        return [row.name, *ranked, *([row.subject] if self.by_subject else []), str(row.images)]

    @property
    def titles(self) -> tuple[str, ...]:
        """The titles of all columns."""
        return *self.leading, *(column.title for column in self.columns), *self.cost_titles

    @property
    def csv_titles(self) -> tuple[str, ...]:
        """The mean, low and high of a metric are separate fields."""
        metrics = [f"{column.title}{end}" for column in self.columns for end in ("", " low", " high")]
        return *self.leading, *metrics, *(column.csv_title for column in self.cost_columns)

    @property
    def lines(self) -> Iterator[list[TableCell]]:
        """The rows as they are written."""
        for row in self.rows:
            costs = [_cost_entry(column, cost) for column, cost in zip(self.cost_columns, row.costs, strict=True)]
            yield [*map(TableCell, self.lead(row)), *map(_entry, row.cells), *costs]

    @property
    def flush_left(self) -> list[bool]:
        """Whether each column is set flush left: names are, numbers are not."""
        return [
            place == 0 or (place < len(self.leading) and title == "subject") for place, title in enumerate(self.titles)
        ]

    @property
    def cost_titles(self) -> tuple[str, ...]:
        """The titles of the columns after the metrics."""
        return tuple(column.title for column in self.cost_columns)

    @property
    def legend(self) -> str:
        """The meaning of bold print and of the mark of ties; "" where the table has neither."""
        cells = [cell for row in self.rows for cell in row.cells if cell]
        base = " The base is the reference and has no rank." if any(row.base for row in self.rows) else ""
        best = f"Bold: the best.{base}" if any(cell.best for cell in cells) else ""
        brackets = "In brackets: 95% interval of the mean." if any(cell.low is not None for cell in cells) else ""
        tied = f"{TIED}: not distinguishable from the best." if any(cell.tied for cell in cells) else ""
        return " ".join(filter(None, (best, tied, brackets)))


def _entry(cell: ScoreCell | None) -> TableCell:
    """A cell's mean and interval as people read them, and with all digits."""
    if cell is None:
        return TableCell(exact=("", "", ""))
    around = ""
    if cell.low is not None and cell.high is not None:
        around = f"[{score_text(cell.low, cell.mean)}, {score_text(cell.high, cell.mean)}]"
    exact = tuple("" if value is None else repr(value) for value in (cell.mean, cell.low, cell.high))
    return TableCell(score_text(cell.mean), around, cell.best, cell.tied, exact)


def _cost_entry(column: CostColumn, cost: float | None) -> TableCell:
    """A cost as people read it, and with all digits."""
    return TableCell(exact=("",)) if cost is None else TableCell(column.form.format(cost), exact=(repr(cost),))


class Key(NamedTuple):
    """The key of a row: scores with equal keys share it. name: the label, else the method, else "images"."""

    name: str
    method: str
    rank: int | None
    subject: str


def tabulate(scores: Scores, rows: Rows = "label", heading: str = "method", compare: bool = True) -> ScoreTable:
    """One row a label, method and rank (and subject); one column a metric and protocol.

    Rows are in order of appearance, but the base's come first, and those of one method in the order of their ranks.

    With rows "label", scores of several subjects and prompts are averaged over all their values, costs over their
    adapters. With "label x subject" the best is found for each subject by itself. heading: what the rows' names are.
    compare: whether rows are marked and judged; not for numbers of which nobody knows the good direction.
    Raises ValueError for no scores, and where one column would mix backbones or preprocessing.
    """
    return _table(scores, rows == "label x subject", heading, compare, None)


def pivot(
    scores: Scores, across: Callable[[Score], str], heading: str = "method", compare: bool = True
) -> dict[str, ScoreTable]:
    """A table for each metric (and protocol, where there are several) with the values of something else across.

    across: which column a score belongs to. Columns are in order of appearance; there are no costs in them.
    The keys are titles as `tabulate` gives its columns. Raises ValueError as `tabulate` does.
    """
    return {
        column.title: _table(
            Scores(
                tuple(score for score in scores.rows if _metric_of(score) == (column.metric, column.protocol)),
                remarks=scores.remarks,
            ),
            False,
            heading,
            compare,
            across,
        )
        for column in _columns(scores.rows, None)
    }


def _table(
    scores: Scores, by_subject: bool, heading: str, compare: bool, across: Callable[[Score], str] | None
) -> ScoreTable:
    """The table of `tabulate` or `pivot`, which describe the parameters."""
    if not scores.rows:
        raise ValueError("there are no scores to tabulate; connect the scores of Score Images.")
    columns = _columns(scores.rows, across)
    groups: dict[Key, list[Score]] = {}
    for score in scores.rows:
        name = score.label or score.method or "images"
        groups.setdefault(Key(name, score.method, score.rank, score.subject if by_subject else ""), []).append(score)
    if not by_subject:
        groups = {key: groups[key] for key in sorted(groups, key=lambda key: not is_base(key.name, key.method))}
    groups = {key: groups[key] for key in _by_rank(list(groups))}
    keys = list(groups)
    parts = [_parted(group, across) for group in groups.values()]
    places = [(column.metric, column.protocol, column.across) for column in columns]
    values = [[by_prompt(part.get(place, ())) for place in places] for part in parts]
    names = _names(keys)
    cells, findings = (
        _compared(keys, names, columns, values)
        if compare
        else ([[_cell(cell) for cell in line] for line in values], [])
    )
    counts = [group_count(cell) for line in values for cell in line if cell]
    findings += [FEW_TEXT] if any(1 < count < FEW_PROMPTS for count in counts) else []
    shown, costs, memory = _costs_of(keys, by_subject, scores.costs, names)
    lines = []
    for row, (key, group) in enumerate(groups.items()):
        images: Counter[tuple[str, str]] = Counter()
        for score in group:
            images[_metric_of(score)] += score.images
        lines.append(
            ScoreRow(
                names[row],
                group[0].label,
                key.method,
                key.rank,
                key.subject,
                max(images.values()),
                tuple(cells[row]),
                costs[row],
                is_base(key.name, key.method),
            )
        )
    notes = (*_notes(columns), *memory, *scores.remarks)
    return ScoreTable(
        columns, tuple(lines), by_subject, tuple(findings), notes, heading, compared=compare, cost_columns=shown
    )


def _by_rank(keys: Sequence[Key]) -> list[Key]:
    """The keys with those of one method and subject in the order of their ranks, in the places that they have."""
    ordered = list(keys)
    places: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(keys):
        if key.method and key.rank is not None:
            places.setdefault((key.method, key.subject), []).append(place)
    for own in places.values():
        ranked = sorted((keys[place] for place in own), key=lambda key: key.rank or 0)
        for place, key in zip(own, ranked):
            ordered[place] = key
    return ordered


def _metric_of(score: Score) -> tuple[str, str]:
    return score.metric, score.protocol


def _parted(
    group: Sequence[Score], across: Callable[[Score], str] | None
) -> Mapping[tuple[str, str, str | None], list[Score]]:
    """The scores of a row by column."""
    parts: dict[tuple[str, str, str | None], list[Score]] = {}
    for score in group:
        parts.setdefault((*_metric_of(score), across(score) if across else None), []).append(score)
    return parts


def _columns(scores: Sequence[Score], across: Callable[[Score], str] | None) -> tuple[Column, ...]:
    """A column for each metric and protocol, in the order of the metrics; of a pivot, for each value as well."""
    firsts: dict[tuple[str, str], Score] = {}
    for score in scores:
        first = firsts.setdefault(_metric_of(score), score)
        if first.measurement != score.measurement:
            raise ValueError(
                f"{score.metric} of protocol {score.protocol} was measured in two ways that do not "
                f"compare: {first.measurement}; and {score.measurement}."
            )
    several = len({protocol for _, protocol in firsts}) > 1
    values = dict.fromkeys(across(score) for score in scores) if across else (None,)
    return tuple(
        Column(
            (f"{metric} ({protocol})" if several else metric) if value is None else value,
            metric,
            protocol,
            firsts[metric, protocol].scale,
            firsts[metric, protocol].measurement,
            value,
        )
        for metric, protocol in sorted(firsts, key=lambda key: (order(key[0]), key[1]))
        for value in values
    )


def _notes(columns: Sequence[Column]) -> list[str]:
    """A note on each column: how it was measured, and whether lower is better."""
    return list(
        dict.fromkeys(
            f"{column.metric} ({column.protocol}): {column.measurement}"
            + ("; lower is better" if better(column.metric) == "lower" else "")
            for column in columns
        )
    )


def _cell(values: Values) -> ScoreCell | None:
    """The mean of all values and its interval; None without values."""
    flat = [value for group in values.values() for value in group]
    if not flat:
        return None
    bounds = interval(values)
    return ScoreCell(
        math.fsum(flat) / len(flat), bounds.low if bounds else None, bounds.high if bounds else None, len(flat)
    )


def _compared(
    keys: Sequence[Key], names: Sequence[str], columns: Sequence[Column], values: Sequence[Sequence[Values]]
) -> tuple[list[list[ScoreCell | None]], list[str]]:
    """The cells of values[row][column] with the best of each column and subject marked, and what that says.

    The base is no rival: it is what the best of the others is compared with.
    """
    cells = [[_cell(cell) for cell in line] for line in values]
    findings = []
    for place, column in enumerate(columns):
        for subject in dict.fromkeys(key.subject for key in keys):
            rows = [row for row, key in enumerate(keys) if key.subject == subject and values[row][place]]
            rivals = [row for row in rows if not is_base(keys[row].name, keys[row].method)]
            bases = [row for row in rows if row not in rivals]
            what = f"{column.what} of {subject}" if subject else column.what
            named = dict(
                zip(rivals, _distinct_names([names[row] for row in rivals], [keys[row].rank for row in rivals]))
            )
            best = rivals[0] if len(rivals) == 1 else None
            if len(rivals) > 1:
                verdict = judge(
                    what, list(named.values()), [values[row][place] for row in rivals], better(column.metric)
                )
                findings.append(verdict.sentence)
                best = rivals[verdict.best]
            if best is not None:
                findings += [
                    against(what, named[best], names[row], values[best][place], values[row][place]) for row in bases
                ]
            if len(rivals) < 2:
                continue
            for rival, row in enumerate(rivals):
                cell = cells[row][place]
                cells[row][place] = cell and replace(cell, best=rival == verdict.best, tied=rival in verdict.tied)
    return cells, findings or [NOTHING_TO_COMPARE]


def _names(keys: Sequence[Key]) -> list[str]:
    """The names of the rows, with the method behind the name where two rows would look the same."""
    seen = Counter((key.name, key.rank, key.subject) for key in keys)
    return [
        f"{key.name} ({key.method or 'method unknown'})" if seen[key.name, key.rank, key.subject] > 1 else key.name
        for key in keys
    ]


def _distinct_names(names: Sequence[str], ranks: Sequence[int | None]) -> list[str]:
    """The names of the rows for sentences, where no column shows the rank."""
    seen = Counter(names)
    return [name if seen[name] == 1 or rank is None else f"{name} r{rank}" for name, rank in zip(names, ranks)]


def _costs_of(
    keys: Sequence[Key], by_subject: bool, costs: Sequence[Cost], names: Sequence[str]
) -> tuple[tuple[CostColumn, ...], list[tuple[float | None, ...]], list[str]]:
    """The columns of the costs, the mean costs of the adapters behind each row, and a note on whose memory it was."""
    if not costs:
        return (), [() for _ in keys], []
    matching = [_behind(key, by_subject, costs) for key in keys]
    rows = [[_mean_cost(column, own) for column in COST_COLUMNS] for own in matching]
    places = [
        place for place in range(len(COST_COLUMNS)) if place < _ALWAYS or any(row[place] is not None for row in rows)
    ]
    owners: dict[str, list[str]] = {}
    for name, own in zip(names, matching):
        for memory in dict.fromkeys(cost.memory for cost in own if cost.peak_bytes is not None):
            owners.setdefault(memory, []).append(name)
    words = {"GPU": "the GPU's memory, as PyTorch allocates it", "process": "the memory of the whole process"}
    parts = [
        words.get(memory, "not known whose memory") + (f" ({', '.join(theirs)})" if len(owners) > 1 else "")
        for memory, theirs in owners.items()
    ]
    note = [f"peak MiB, while it was trained: {'; '.join(parts)}"] if parts else []
    shown = tuple(COST_COLUMNS[place] for place in places)
    return shown, [tuple(row[place] for place in places) for row in rows], note


def _mean_cost(column: CostColumn, costs: Sequence[Cost]) -> float | None:
    """The mean of what is known."""
    values = [value for cost in costs if (value := column.number(cost)) is not None]
    return sum(values) / len(values) if values else None


def _behind(key: Key, by_subject: bool, costs: Sequence[Cost]) -> list[Cost]:
    """The costs of the adapters behind a row. A field that either side lacks counts as equal."""

    def belongs(cost: Cost) -> bool:
        same = [(cost.method, key.method), (cost.rank, key.rank), (cost.subject, key.subject if by_subject else "")]
        return (cost.label or cost.method or "images") == key.name and all(
            one == other or one in (None, "") or other in (None, "") for one, other in same
        )

    return list(dict.fromkeys(cost for cost in costs if belongs(cost)))  # several nodes may report one adapter
