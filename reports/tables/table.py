"""The table that every form writes: titles and lines of entries, with sentences below. It knows nothing of scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

TIED = "~"
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"


@dataclass(frozen=True)
class TableCell:
    """An entry of a table. interval: small print beside the text. tied: as good as what is bold.

    exact: its fields in a CSV file, as many as the column has titles there; None: the text alone.
    """

    text: str = ""
    interval: str = ""
    bold: bool = False
    tied: bool = False
    exact: tuple[str, ...] | None = None

    @property
    def marked(self) -> str:
        """The text, with the mark of ties before it."""
        return TIED + self.text if self.tied else self.text


class Table(Protocol):
    """A table of entries. flush_left: whether each column is set flush left; names are, numbers are not.

    arrows: behind the title of each column, UP or DOWN for whether higher or lower numbers are better, else empty.
    apart: how many of the first lines are a reference, which is set apart from the others.
    legend, findings and notes stand below the table: what its marks mean, what it says, how it was made.
    """

    @property
    def titles(self) -> Sequence[str]:
        """The titles of all columns."""

    @property
    def csv_titles(self) -> Sequence[str]:
        """The titles of all fields of a CSV file."""

    @property
    def flush_left(self) -> Sequence[bool]:
        """Whether each column is set flush left."""

    @property
    def arrows(self) -> Sequence[str]:
        """The arrow of each column."""

    @property
    def apart(self) -> int:
        """The number of lines that are set apart."""

    @property
    def lines(self) -> Iterable[Sequence[TableCell]]:
        """An entry for each column, line by line."""

    @property
    def legend(self) -> str:
        """The meaning of the marks; "" if there are none."""

    @property
    def findings(self) -> Sequence[str]:
        """The findings: sentences about the numbers."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes on how the numbers were measured."""


@dataclass(frozen=True)
class TextTable:
    """A table of texts alone. lines: where they are many, an iterator, for one form."""

    titles: tuple[str, ...]
    lines: Iterable[Sequence[TableCell]]
    flush_left: tuple[bool, ...]
    legend: str = ""
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    apart: int = 0

    @property
    def arrows(self) -> tuple[str, ...]:
        """No arrows: nobody knows a good direction."""
        return ("",) * len(self.titles)

    @property
    def csv_titles(self) -> tuple[str, ...]:
        """The titles of the fields of a CSV file: one field a column."""
        return self.titles


def with_arrows(table: Table) -> list[str]:
    """The titles with their arrows behind them."""
    return [f"{title} {arrow}".strip() for title, arrow in zip(table.titles, table.arrows)]


def text_table(
    titles: Sequence[str], lines: Iterable[Sequence[str | TableCell]], numbers: Iterable[str] = ()
) -> TextTable:
    """A table of these texts. numbers: titles of the columns that are set flush right.

    lines: an iterator stays one, and its table can be written once; everything else is kept.
    """
    right = set(numbers)
    entries = (tuple(TableCell(each) if isinstance(each, str) else each for each in line) for line in lines)
    kept = entries if isinstance(lines, Iterator) else tuple(entries)
    return TextTable(tuple(titles), kept, tuple(title not in right for title in titles))
