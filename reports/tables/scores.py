"""Scores made into a table: methods down, metrics or the values of something else across."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from ...scoring.metrics import better, order
from ...scoring.scores import Cost, Score, Scores
from ...scoring.statistics import Values, by_prompt, group_count, interval
from ..reference import is_base
from .findings import FEW_PROMPTS, FEW_TEXT, NOTHING_TO_COMPARE, against, judge
from .score_table import COST_COLUMNS, FOR_ANY_ADAPTER, Column, CostColumn, ScoreCell, ScoreRow, ScoreTable

Rows = Literal["label", "label x subject"]


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
        place
        for place in range(len(COST_COLUMNS))
        if place < FOR_ANY_ADAPTER or any(row[place] is not None for row in rows)
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
