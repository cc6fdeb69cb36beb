"""Intervals of means: percentile bootstrap over prompts and seeds, paired where two methods share them.

The values of one subject and prompt are a group, its samples (seeds) are the values in it. Groups are drawn with
replacement, then values within each drawn group (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
section 3.8, hierarchical data). The 2.5th and 97.5th percentile of the resampled means are the interval (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). With few values it comes out too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .scores import Score

PairedGroup = tuple[str, str]
Values = Mapping[PairedGroup, Sequence[float]]

DRAWS = 5000
PERCENTILES = (2.5, 97.5)
NUMBERS = 1_000_000  # about how many numbers a temporary array may hold
SEED = 0


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, and how many groups and values it rests on."""

    mean: float
    low: float
    high: float
    groups: int
    values: int


@dataclass(frozen=True)
class Difference(Interval):
    """The mean of one method minus that of another.

    paired: value by value, over the groups that both have. groups, values: where it is not paired, the fewer of the
    two.
    """

    paired: bool

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def by_prompt(scores: Iterable[Score]) -> dict[PairedGroup, list[float]]:
    """The values of several scores by (subject, prompt), in the order of their seeds where those are known."""
    groups: dict[PairedGroup, list[tuple[str, float]]] = {}
    for row in scores:
        count = len(row.values)
        texts = row.texts if len(row.texts) == count else ("",) * count
        seeds = tuple(row.provenance.get("seeds", ()))
        for text, seed, value in zip(texts, seeds if len(seeds) == count else (seeds,) * count, row.values):
            groups.setdefault((row.subject, text), []).append((str(seed), value))
    return {group: [value for _, value in sorted(pairs, key=lambda pair: pair[0])] for group, pairs in groups.items()}


def interval(values: Values) -> Interval | None:
    """The mean of all values with its 95 % interval; None for a single value. No group may be empty.

    With one group only values are drawn, and with one value a group only groups.
    """
    groups = _arrays(values)
    count = sum(map(len, groups))
    if count < 2:
        return None
    low, high = np.percentile(_resampled(groups, np.random.default_rng(SEED)), PERCENTILES)
    return Interval(float(np.concatenate(groups).mean()), float(low), float(high), len(groups), count)


def difference(first: Values, second: Values) -> Difference | None:
    """The mean of the first minus the second's, with its 95 % interval; None where either has a single value.

    Paired where both have the same groups with the same counts: the interval of the differences of value k of group g.
    Otherwise both are drawn independently. The interval says nothing of other comparisons made beside this one.
    """
    counts = {group: len(values) for group, values in first.items()}
    if counts == {group: len(values) for group, values in second.items()}:
        paired_interval = interval({group: np.subtract(first[group], second[group]).tolist() for group in first})
        return Difference(**vars(paired_interval), paired=True) if paired_interval else None
    first_arrays, second_arrays = _arrays(first), _arrays(second)
    values = min(sum(map(len, first_arrays)), sum(map(len, second_arrays)))
    if values < 2:
        return None
    rng = np.random.default_rng(SEED)
    low, high = np.percentile(_resampled(first_arrays, rng) - _resampled(second_arrays, rng), PERCENTILES)
    mean = np.concatenate(first_arrays).mean() - np.concatenate(second_arrays).mean()
    return Difference(
        float(mean), float(low), float(high), min(len(first_arrays), len(second_arrays)), values, paired=False
    )


def _arrays(values: Values) -> list[np.ndarray]:
    return [np.asarray(group, dtype=np.float64) for group in values.values()]


def _resampled(groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means of DRAWS two-level resamples: float64 [DRAWS]. Each is over all drawn values, whatever their group."""
    sizes = np.array([len(group) for group in groups])
    flat = np.concatenate(groups)
    at_once = max(1, NUMBERS // len(flat))
    draw = _draw_equal if (sizes == sizes[0]).all() else _draw_unequal
    return np.concatenate([draw(flat, sizes, min(at_once, DRAWS - first), rng) for first in range(0, DRAWS, at_once)])


def _draw_equal(flat: np.ndarray, sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` means where all groups are of one size. flat: the groups' values one after the other."""
    groups, size = len(sizes), int(sizes[0])
    drawn = rng.integers(groups, size=(count, groups, 1))
    picks = rng.integers(size, size=(count, groups, size))
    return flat[drawn * size + picks].mean(axis=(1, 2))


def _draw_unequal(flat: np.ndarray, sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` means where the groups' sizes differ, and with them the number of values of each draw."""
    starts = np.cumsum(sizes) - sizes
    drawn = rng.integers(len(sizes), size=count * len(sizes))
    lengths = sizes[drawn]
    group = np.repeat(drawn, lengths)
    picks = starts[group] + rng.integers(sizes[group])
    totals = lengths.reshape(count, -1).sum(axis=1)
    return np.add.reduceat(flat[picks], np.cumsum(totals) - totals) / totals
