"""A table of scores as a record: its columns, rows and cells, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...scoring.metrics import better
from ...scoring.scores import Cost, score_text
from .table import DOWN, TIED, UP, TableCell


@dataclass(frozen=True)
class CostColumn:
    """A column of costs. csv_title: in a CSV file, as programs have always read it. form: how people read a number."""

    title: str
    csv_title: str
    form: str
    number: Callable[[Cost], float | None]


# The first three are there for any adapter; the others where one row at least has them.
FOR_ANY_ADAPTER = 3
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
        """The titles of a CSV file's columns: mean, low and high of a metric have one each."""
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
