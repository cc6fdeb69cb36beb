"""What a comparison grid takes from the scores of a row: numbers, and which column each picture belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..scoring.metrics import better, order, role_of
from ..scoring.scores import Score, Scores, score_text
from .grid import GridScore
from .reference import is_base


@dataclass(frozen=True)
class Printed:
    """A score as it is printed. metric: which of METRICS it is, of which the good direction is known."""

    name: str
    metric: str
    value: float

    @property
    def text(self) -> str:
        """The number as people read it."""
        return score_text(self.value)


@dataclass(frozen=True)
class RowScores:
    """What stands beside a row. means: over all pictures. base: whether these are the base model's pictures.

    each: the scores of each of its pictures alone, or empty. texts: the prompts of the pictures, in each of the forms
    that were scored.
    """

    label: str
    means: tuple[Printed, ...]
    each: tuple[tuple[Printed, ...], ...]
    texts: tuple[tuple[str, ...], ...]
    base: bool = False

    @property
    def note(self) -> str:
        """The means, one a line."""
        return "\n".join(f"{mean.name} {mean.text}" for mean in self.means)


def row_scores(scores: Scores, pictures: int) -> RowScores:
    """The scores of a row of that many pictures.

    Own scores are those with one value a picture: no pairs of pictures, and no other pictures than those of the row's
    first metric.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    for row in sorted(scores.rows, key=lambda row: (order(row.metric), row.protocol)):
        groups.setdefault((row.metric, row.protocol), []).append(row)
    metrics = [metric for metric, _ in groups]
    named = {
        f"{metric} ({protocol})" if metrics.count(metric) > 1 else metric: rows
        for (metric, protocol), rows in groups.items()
    }
    means = [Printed(name, rows[0].metric, Scores(tuple(rows)).value(rows[0].metric)) for name, rows in named.items()]
    per_picture = {
        name: rows
        for name, rows in named.items()
        if len(_values(rows)) == pictures and role_of(rows[0].pairing) != "within"
    }
    first = next((_digests(rows) for rows in per_picture.values()), ())
    per_picture = {name: rows for name, rows in per_picture.items() if _digests(rows) == first}
    columns = [[Printed(name, rows[0].metric, value) for value in _values(rows)] for name, rows in per_picture.items()]
    texts = [tuple(text for row in rows for text in row.texts) for rows in per_picture.values()]
    label = next((row.label or row.method for row in scores.rows), "")
    return RowScores(
        label,
        tuple(means),
        tuple(zip(*columns, strict=True)),
        tuple(dict.fromkeys(text for text in texts if len(text) == pictures)),
        all(is_base(row.label, row.method) for row in scores.rows),
    )


def printed(lines: Sequence[str]) -> tuple[Printed, ...]:
    """Scores as `RowScores.note` writes them, read back; what does not end in a number is passed over."""
    scores = []
    for line in lines:
        name, _, number = line.rpartition(" ")
        try:
            scores.append(Printed(name, name.partition(" (")[0], float(number)))
        except ValueError:
            continue
    return tuple(scores)


def compared(rows: Sequence[Sequence[Sequence[Printed]]], base: Sequence[bool]) -> list[list[tuple[GridScore, ...]]]:
    """The scores of the cells of a grid, by row and column, as they are drawn.

    The best of each column and name is marked, where two rows or more have it and leave the base out: the base is the
    reference. Bars go from 0 to the highest number of their name in the whole grid.
    """
    highest: dict[str, float] = {}
    rivals: dict[tuple[int, str], list[Printed]] = {}
    for scores, is_reference in zip(rows, base, strict=True):
        for column, cell in enumerate(scores):
            for score in cell:
                if math.isfinite(score.value):
                    highest[score.name] = max(highest.get(score.name, 0.0), score.value)
                    if not is_reference:
                        rivals.setdefault((column, score.name), []).append(score)
    best = {
        place: (max if better(scores[0].metric) == "higher" else min)(score.value for score in scores)
        for place, scores in rivals.items()
        if len(scores) > 1
    }

    def drawn(column: int, score: Printed, is_reference: bool) -> GridScore:
        most = highest.get(score.name, 0.0)
        share = score.value / most if most > 0 and score.value > 0 else 0.0
        return GridScore(
            score.name, score.text, share, not is_reference and best.get((column, score.name)) == score.value
        )

    return [
        [tuple(drawn(column, score, is_reference) for score in cell) for column, cell in enumerate(scores)]
        for scores, is_reference in zip(rows, base, strict=True)
    ]


def _values(rows: Sequence[Score]) -> list[float]:
    return [value for row in rows for value in row.values]


def _digests(rows: Sequence[Score]) -> tuple[str, ...]:
    return tuple(digest for row in rows for digest in row.pictures)


class Placed:
    """A row of a grid whose pictures stand in chosen columns. places[column] is the index of a picture, or None."""

    def __init__(self, pictures: Sequence[Image.Image], places: Sequence[int | None]) -> None:
        """The pictures are asked for one at a time."""
        self.pictures, self.places = pictures, places

    def __len__(self) -> int:
        """The number of columns."""
        return len(self.places)

    def __getitem__(self, column: int) -> Image.Image | None:
        """The picture of a column, or None."""
        index = self.places[column]
        return None if index is None else self.pictures[index]


def columns_of(texts: Sequence[str], labels: Sequence[str]) -> list[int | None] | None:
    """The index of the picture of that prompt for each column label, or None for a column without one.

    texts: the prompt of each picture. Pictures of one prompt go to the columns of its label in their order. The result
    is None where the texts do not decide: some are empty or no label, or all are one text with too few columns for the
    pictures. Raises ValueError for more pictures of one prompt of several than columns with its label.
    """
    texts, labels = [text.strip() for text in texts], [label.strip() for label in labels]
    if not texts or not all(texts) or not set(texts) <= set(labels):
        return None
    places: list[int | None] = [None] * len(labels)
    for index, text in enumerate(texts):
        free = [column for column, label in enumerate(labels) if label == text and places[column] is None]
        if not free and len(set(texts)) == 1:
            return None
        if not free:
            raise ValueError(
                f"{texts.count(text)} pictures of the prompt {text!r} for {labels.count(text)} columns of "
                "that label; write the column label once for each of them."
            )
        places[free[0]] = index
    return places
