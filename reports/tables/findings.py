"""The finding of a column of a table, in a sentence: which row is best, and which are not distinguishable from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...scoring.statistics import LEVEL, Difference, Values, difference, holm

FEW_PROMPTS = 5
FEW_TEXT = (
    f"Intervals over fewer than {FEW_PROMPTS} prompts are wide, however many pictures each has: more prompts help most."
)
NOTHING_TO_COMPARE = "There is nothing to compare: no metric has values of two rows."


@dataclass(frozen=True)
class Verdict:
    """The places of the best of the compared rows, and of those that are not distinguishable from it."""

    best: int
    tied: frozenset[int]
    sentence: str


def judge(what: str, names: Sequence[str], values: Sequence[Values], better: Literal["higher", "lower"]) -> Verdict:
    """Compare two or more rows of a column, each with the row of the best mean, corrected for their number (Holm).

    A row of a single value has no interval: it is tied only if its mean is the best one, too.
    """
    flat = [[value for group in rows.values() for value in group] for rows in values]
    means = [math.fsum(row) / len(row) for row in flat]
    best = (max if better == "higher" else min)(range(len(means)), key=means.__getitem__)
    differences = {row: difference(values[row], values[best]) for row in range(len(means)) if row != best}
    with_interval = {row: shown for row, shown in differences.items() if shown}
    without_interval = [row for row in differences if row not in with_interval]
    adjusted = dict(zip(with_interval, holm([shown.p for shown in with_interval.values()])))
    tied = frozenset(row for row, p in adjusted.items() if p >= LEVEL)
    tied |= frozenset(row for row in without_interval if means[row] == means[best])
    return Verdict(
        best,
        tied,
        _sentence(what, names, best, with_interval, sorted(tied & set(with_interval)), without_interval),
    )


def against(what: str, name: str, base: str, values: Values, reference: Values) -> str:
    """How a row compares with the base's, in a sentence. values, reference: of the row and of the base."""
    own, other = (
        math.fsum(flat) / len(flat)
        for flat in ([value for group in rows.values() for value in group] for rows in (values, reference))
    )
    if own == other:
        return f"{what}: {name} has the mean of {base}."
    way = "higher" if own > other else "lower"
    shown = difference(values, reference)
    if shown is None:
        return f"{what}: {name} is {way} than {base}, but there are too few pictures for an interval."
    kind = "paired difference" if shown.paired else "difference"
    if shown.distinguishable:
        return f"{what}: {name} is {way} than {base} (95% interval of the {kind} excludes 0)."
    return f"{what}: {name} is not distinguishable from {base} (95% interval of the {kind} contains 0)."


def _sentence(
    what: str, names: Sequence[str], best: int, differences: dict[int, Difference], close: list[int], unknown: list[int]
) -> str:
    """The verdict in words. differences: to the best row, by row; close: those of them that may be 0; unknown: none."""
    leader = names[best]
    if not differences:
        return f"{what}: {leader} has the best mean, but there are too few pictures for an interval."
    unpaired = [row for row in differences if not differences[row].paired]
    kind = "difference" if unpaired else "paired difference"
    if len(differences) == 1:
        outside, inside = (f"95% interval of the {kind} {verb} 0" for verb in ("excludes", "contains"))
    else:
        test = f"{kind}s, corrected for {len(differences)} comparisons (Holm)"
        outside, inside = f"p < {LEVEL} of the {test}", f"p >= {LEVEL} of the {test}"
    if not close:
        beaten = _list([names[row] for row in differences]) if unknown or len(differences) == 1 else "every other row"
        text = f"{what}: {leader} is best, distinguishable from {beaten} ({outside})."
    elif len(close) == len(differences):
        text = f"{what}: {leader} has the best mean, but nothing is distinguishable from it ({inside})."
    else:
        verb = "is" if len(close) == 1 else "are"
        text = (
            f"{what}: {leader} is best; {_list([names[row] for row in close])} {verb} not distinguishable from it "
            f"({inside})."
        )
    if unpaired:
        text += (
            " The intervals are unpaired, as the prompts or the numbers of pictures differ, for "
            f"{_list([names[row] for row in unpaired])}."
        )
    if unknown:
        text += f" Too few pictures for an interval: {_list([names[row] for row in unknown])}."
    return text


def _list(names: Sequence[str]) -> str:
    """The names as a list in a sentence: a; a and b; a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
