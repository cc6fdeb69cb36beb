"""95 % intervals of means and of differences, by groups of one prompt, and which differences hold among several.

The values of one subject and prompt are a group: its samples (seeds) share what the prompt makes easy or hard, so the
group is the unit, not the value. With G groups of sums S_g and counts n_g the mean is sum(S_g) / sum(n_g), its
residuals are z_g = G (S_g - n_g mean) / sum(n_g), and its standard error is sd(z) / sqrt(G) (Cochran, Sampling
Techniques, 1977, section 6.3, a ratio of two sums; with equal counts these are the group means). A single group counts
as a group a value.

The interval is Student's t with G - 1 degrees of freedom, and with six groups or more that of Hall's monotone
transformation, which takes the skewness out of t (Hall, On the removal of skewness by transformation, 1992, J. R.
Statist. Soc. B 54, equation 2.4), with half of the skewness that the groups show: with the whole of it eight groups of
which one is far off have an interval half as wide again, and of a hundred intervals one or two more hold the mean.
tests/unit/test_interval_coverage.py counts how often they do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .scores import Score

PairedGroup = tuple[str, str]
Values = Mapping[PairedGroup, Sequence[float]]

LEVEL = 0.05  # one minus the confidence
SHRUNK = 0.5  # of the skewness of few groups the larger part is chance
SKEWNESS_FROM = 6  # groups: of fewer, the third moment is noise, and widens the interval by half for nothing


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

    p: of the two-sided test that both means are equal; below 0.05 where the interval excludes 0. paired: value by
    value, over the groups that both have. groups, values: where it is not paired, the fewer of the two.
    """

    p: float
    paired: bool

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class _Estimate:
    """A mean (or difference of means), its standard error, the skewness of that error, and degrees of freedom."""

    mean: float
    error: float
    skewness: float
    freedom: float

    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval."""
        from scipy.special import stdtrit

        bound = float(stdtrit(self.freedom, 1 - LEVEL / 2))
        return self.mean - self.error * self._untransformed(bound), self.mean - self.error * self._untransformed(-bound)

    def p(self) -> float:
        """The p-value of the two-sided test that the true value is 0."""
        from scipy.special import stdtr

        if self.error == 0:
            return float(self.mean == 0)
        ratio = self._transformed(self.mean / self.error)
        return 2 * float(stdtr(self.freedom, -abs(ratio)))

    def _transformed(self, t: float) -> float:
        """Hall's transformation of a studentised value: t + A t² / 3 + A² t³ / 27 + A / 6, A the skewness."""
        a = self.skewness
        return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6

    def _untransformed(self, y: float) -> float:
        """The t of which `y` is the transformation."""
        from scipy.special import cbrt  # math has one from Python 3.11 on

        a = self.skewness
        return 3 / a * (float(cbrt(1 + a * (y - a / 6))) - 1) if abs(a) > 1e-6 else y


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


def group_count(values: Values) -> int:
    """How many groups an interval rests on; the values of a single group count as one each."""
    return len(values) if len(values) > 1 else sum(map(len, values.values()))


def interval(values: Values) -> Interval | None:
    """The mean of all values with its 95 % interval; None for a single value. No group may be empty."""
    sums, counts = _sums(values)
    if len(sums) < 2:
        return None
    estimate = _one(sums, counts)
    low, high = estimate.interval()
    return Interval(estimate.mean, low, high, len(values), sum(map(len, values.values())))


def difference(first: Values, second: Values) -> Difference | None:
    """The mean of the first minus the second's, with its 95 % interval; None where either has a single value.

    Paired where both have the same groups with the same counts: the interval of the differences of value k of group g.
    Otherwise both are independent (Welch's test). The interval and p say nothing of other comparisons made beside
    this one: see holm().
    """
    counts = {group: len(values) for group, values in first.items()}
    paired = counts == {group: len(values) for group, values in second.items()}
    if paired:
        sides = [_sums({group: np.subtract(first[group], second[group]).tolist() for group in first})]
    else:
        sides = [_sums(first), _sums(second)]
    if min(len(sums) for sums, _ in sides) < 2:
        return None
    estimates = [_one(sums, sizes) for sums, sizes in sides]
    estimate = estimates[0] if paired else _minus(*estimates)
    low, high = estimate.interval()
    return Difference(
        estimate.mean,
        low,
        high,
        min(len(first), len(second)),
        min(sum(map(len, side.values())) for side in (first, second)),
        p=estimate.p(),
        paired=paired,
    )


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of several tests, in their order: below 0.05 with at most that chance of any wrong one among them.

    The k-th smallest of m counts m - k + 1 times, and none is below a smaller one (Holm, A simple sequentially
    rejective multiple test procedure, 1979).
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def _sums(values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the groups, float64 [G]; of a single group each value is one."""
    groups = list(values.values())
    if len(groups) == 1:
        groups = [[value] for value in groups[0]]
    sums = np.array([math.fsum(group) for group in groups], dtype=np.float64)
    return sums, np.array([len(group) for group in groups], dtype=np.float64)


def _one(sums: np.ndarray, counts: np.ndarray) -> _Estimate:
    """The mean over all values of two groups or more. sums, counts: float64 [G]."""
    size = len(sums)
    total = counts.sum()
    mean = math.fsum(sums) / float(total)
    residuals = size * (sums - counts * mean) / total
    spread = np.abs(residuals).max()
    if spread <= 1e-12 * abs(mean):  # equal values, up to their rounding
        return _Estimate(mean, 0.0, 0.0, size - 1)
    residuals -= residuals.mean()
    variance = float((residuals**2).mean())
    skewness = 0.0
    if size >= SKEWNESS_FROM:
        skewness = SHRUNK * float((residuals**3).mean()) / variance**1.5 / math.sqrt(size)
    return _Estimate(mean, math.sqrt(variance / (size - 1)), skewness, size - 1)


def _minus(first: _Estimate, second: _Estimate) -> _Estimate:
    """The difference of two independent estimates, with the degrees of freedom of Welch and Satterthwaite."""
    one, two = first.error**2, second.error**2
    error = math.sqrt(one + two)
    if error == 0:
        return _Estimate(first.mean - second.mean, 0.0, 0.0, min(first.freedom, second.freedom))
    freedom = (one + two) ** 2 / (one**2 / first.freedom + two**2 / second.freedom)
    few = min(first.freedom, second.freedom) + 1 < SKEWNESS_FROM
    skewness = 0.0 if few else (first.skewness * first.error**3 - second.skewness * second.error**3) / error**3
    return _Estimate(first.mean - second.mean, error, skewness, freedom)
