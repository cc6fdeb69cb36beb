"""A table of scores before it takes a form: methods down, metrics across."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ..metrics import better, order
from ..scores import Cost, Score, Scores, score_text
from ..statistics import Values, by_prompt, interval
from .findings import FEW, FEW_TEXT, NOTHING, judge

Rows = Literal["label", "label x subject"]

COSTS = ("training s", "values", "MiB")
COST_FORMS = ("{:.0f}", "{:,.0f}", "{:.3f}")
TEXTS = ("method", "subject")  # the columns that are set flush left
TIED = "~"


@dataclass(frozen=True)
class Cell:
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
    """A metric under a protocol. title: with the protocol only where the table has several. made: how it was made."""

    title: str
    metric: str
    protocol: str
    scale: float
    made: str


@dataclass(frozen=True)
class Row:
    """name: what the table calls it; label and method are the scores' own. subject: "" where subjects are averaged.

    costs: training seconds, values and MiB, None for what is not known; empty if no row has any.
    """

    name: str
    label: str
    method: str
    rank: int | None
    subject: str
    images: int
    cells: tuple[Cell | None, ...]
    costs: tuple[float | None, ...] = ()

    @property
    def cost_texts(self) -> list[str]:
        """The costs as people read them."""
        return ["" if cost is None else form.format(cost) for cost, form in zip(self.costs, COST_FORMS)]


@dataclass(frozen=True)
class Table:
    """findings: what the numbers say, in sentences. notes: how each column was made, and remarks of the scores."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    by_subject: bool
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def leading(self) -> tuple[str, ...]:
        """Titles of the columns before the metrics."""
        ranked = any(row.rank is not None for row in self.rows)
        return "method", *(("rank",) if ranked else ()), *(("subject",) if self.by_subject else ()), "images"

    def lead(self, row: Row) -> list[str]:
        """What a row has under `leading`."""
        known = {"method": row.name, "rank": "" if row.rank is None else str(row.rank), "subject": row.subject,
                 "images": str(row.images)}
        return [known[title] for title in self.leading]

    @property
    def cost_titles(self) -> tuple[str, ...]:
        """Titles of the columns after the metrics."""
        return COSTS if any(row.costs for row in self.rows) else ()

    @property
    def legend(self) -> str:
        """What bold print and the mark of ties mean; "" where the table has neither."""
        cells = [cell for row in self.rows for cell in row.cells if cell]
        best = "Bold: the best." if any(cell.best for cell in cells) else ""
        brackets = "In brackets: 95% interval of the mean." if any(cell.low is not None for cell in cells) else ""
        tied = f"{TIED}: not distinguishable from the best." if any(cell.tied for cell in cells) else ""
        return " ".join(filter(None, (best, tied, brackets)))


def mean_text(cell: Cell) -> str:
    """A cell's mean as people read it."""
    return score_text(cell.mean)


def interval_text(cell: Cell) -> str:
    """A cell's interval in brackets; "" without one."""
    if cell.low is None or cell.high is None:
        return ""
    return f"[{score_text(cell.low, cell.mean)}, {score_text(cell.high, cell.mean)}]"


class Key(NamedTuple):
    """What makes a row. name: the label, else the method, else "images"."""

    name: str
    method: str
    rank: int | None
    subject: str


def tabulate(scores: Scores, rows: Rows = "label") -> Table:
    """One row a label, method and rank (and subject) in order of appearance; one column a metric and protocol.

    With rows "label", scores of several subjects and prompts are averaged over all their values, costs over their
    adapters. With "label x subject" the best is found for each subject by itself. Raises ValueError for no scores, and
    where one column would mix backbones or preprocessing.
    """
    if not scores.rows:
        raise ValueError("there are no scores to tabulate; connect the scores of Score Images.")
    by_subject = rows == "label x subject"
    columns = _columns(scores.rows)
    found: dict[Key, list[Score]] = {}
    for score in scores.rows:
        name = score.label or score.method or "images"
        found.setdefault(Key(name, score.method, score.rank, score.subject if by_subject else ""), []).append(score)
    keys = list(found)
    parts = [[[score for score in group if (score.metric, score.protocol) == (column.metric, column.protocol)]
              for column in columns] for group in found.values()]
    values = [[by_prompt(part) for part in line] for line in parts]
    names = _names(keys)
    cells, findings = _compared(keys, names, columns, values)
    counts = [cell.count for line in cells for cell in line if cell]
    findings += [FEW_TEXT] if any(1 < count < FEW for count in counts) else []
    lines = []
    for row, (key, group) in enumerate(found.items()):
        images = max(sum(score.images for score in part) for part in parts[row])
        costs = _costs(key, by_subject, scores.costs) if scores.costs else ()
        lines.append(Row(names[row], group[0].label, key.method, key.rank, key.subject, images, tuple(cells[row]),
                         costs))
    return Table(columns, tuple(lines), by_subject, tuple(findings), (*_notes(columns), *scores.remarks))


def _columns(scores: Sequence[Score]) -> tuple[Column, ...]:
    """A column for each metric and protocol, in the order of the metrics."""
    made: dict[tuple[str, str], Score] = {}
    for score in scores:
        first = made.setdefault((score.metric, score.protocol), score)
        if first.made != score.made:
            raise ValueError(f"{score.metric} of protocol {score.protocol} was measured in two ways that do not "
                             f"compare: {first.made}; and {score.made}.")
    several = len({protocol for _, protocol in made}) > 1
    return tuple(Column(f"{metric} ({protocol})" if several else metric, metric, protocol,
                        made[metric, protocol].scale, made[metric, protocol].made)
                 for metric, protocol in sorted(made, key=lambda key: (order(key[0]), key[1])))


def _notes(columns: Sequence[Column]) -> list[str]:
    """How each column was made, and which of them are the better the lower."""
    return [f"{column.metric} ({column.protocol}): {column.made}"
            + ("; lower is better" if better(column.metric) == "lower" else "") for column in columns]


def _cell(values: Values) -> Cell | None:
    """The mean of all values and its interval; None without values."""
    flat = [value for group in values.values() for value in group]
    if not flat:
        return None
    found = interval(values)
    return Cell(math.fsum(flat) / len(flat), found.low if found else None, found.high if found else None, len(flat))


def _compared(keys: Sequence[Key], names: Sequence[str], columns: Sequence[Column],
              values: Sequence[Sequence[Values]]) -> tuple[list[list[Cell | None]], list[str]]:
    """The cells of values[row][column] with the best of each column and subject marked, and what that says."""
    cells = [[_cell(cell) for cell in line] for line in values]
    findings = []
    for place, column in enumerate(columns):
        for subject in dict.fromkeys(key.subject for key in keys):
            rivals = [row for row, key in enumerate(keys) if key.subject == subject and values[row][place]]
            if len(rivals) < 2:
                continue
            verdict = judge(f"{column.title} of {subject}" if subject else column.title,
                            _told_apart([names[row] for row in rivals], [keys[row].rank for row in rivals]),
                            [values[row][place] for row in rivals], better(column.metric))
            findings.append(verdict.sentence)
            for rival, row in enumerate(rivals):
                cell = cells[row][place]
                cells[row][place] = cell and replace(cell, best=rival == verdict.best, tied=rival in verdict.tied)
    return cells, findings or [NOTHING]


def _names(keys: Sequence[Key]) -> list[str]:
    """What the rows are called: the method behind the name where two rows would look the same."""
    seen = Counter((key.name, key.rank, key.subject) for key in keys)
    return [f"{key.name} ({key.method or 'method unknown'})" if seen[key.name, key.rank, key.subject] > 1 else key.name
            for key in keys]


def _told_apart(names: Sequence[str], ranks: Sequence[int | None]) -> list[str]:
    """Names for sentences, where no column shows the rank."""
    seen = Counter(names)
    return [name if seen[name] == 1 or rank is None else f"{name} r{rank}" for name, rank in zip(names, ranks)]


def _costs(key: Key, by_subject: bool, costs: Sequence[Cost]) -> tuple[float | None, ...]:
    """Means of what is known of the adapters behind a row. What either side does not know does not part them."""
    def belongs(cost: Cost) -> bool:
        same = [(cost.method, key.method), (cost.rank, key.rank), (cost.subject, key.subject if by_subject else "")]
        return (cost.label or cost.method or "images") == key.name and all(
            one == other or one in (None, "") or other in (None, "") for one, other in same)

    found = [cost for cost in costs if belongs(cost)]
    seconds = [cost.training_seconds for cost in found if cost.training_seconds is not None]
    return tuple(sum(known) / len(known) if known else None for known in (
        seconds, [cost.values for cost in found], [cost.bytes / 2**20 for cost in found]))
