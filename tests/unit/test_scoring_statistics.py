"""Intervals over prompts and seeds, against scipy's tests and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from deft_pack.scoring.scores import Score
from deft_pack.scoring.statistics import by_prompt, difference, holm, interval


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def one_group(values: np.ndarray) -> dict[tuple[str, str], list[float]]:
    return {("dog", "a dog"): values.tolist()}


def one_each(values: np.ndarray) -> dict[tuple[str, str], list[float]]:
    return {("dog", f"prompt {place}"): [value] for place, value in enumerate(values.tolist())}


def near(interval) -> tuple[float, float]:
    return pytest.approx((interval.low, interval.high), rel=1e-12)


@pytest.mark.parametrize("groups", [one_group, one_each])
def test_few_groups_are_scipys_t(groups):
    """Each value of one group counts as one, so both are a plain t interval of the values."""
    from scipy.stats import ttest_1samp

    values = normal(5) + 3
    estimate = interval(groups(values))
    assert (estimate.low, estimate.high) == near(ttest_1samp(values, 0).confidence_interval())
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.values == 5


def test_groups_of_one_size_are_scipys_t_of_their_means():
    from scipy.stats import ttest_1samp

    values = normal(5, 1) + normal(5, 25, seed=1)
    estimate = interval({("dog", str(place)): row.tolist() for place, row in enumerate(values)})
    assert (estimate.low, estimate.high) == near(ttest_1samp(values.mean(axis=1), 0).confidence_interval())
    assert (estimate.groups, estimate.values) == (5, 125)


def test_paired_difference_is_scipys():
    from scipy.stats import ttest_rel

    first, second = normal(5, seed=1) + 1, normal(5, seed=2)
    estimate, expected = difference(one_each(first), one_each(second)), ttest_rel(first, second)
    assert estimate.paired
    assert (estimate.low, estimate.high) == near(expected.confidence_interval())
    assert estimate.p == pytest.approx(expected.pvalue)


def test_unpaired_difference_is_scipys_welch():
    from scipy.stats import ttest_ind

    first, second = normal(4, seed=1) + 1, 2 * normal(5, seed=2)
    estimate, expected = difference(one_group(first), one_group(second)), ttest_ind(first, second, equal_var=False)
    assert not estimate.paired
    assert estimate.mean == pytest.approx(first.mean() - second.mean())
    assert (estimate.low, estimate.high) == near(expected.confidence_interval())
    assert estimate.p == pytest.approx(expected.pvalue)
    assert (estimate.groups, estimate.values) == (1, 4)


def test_skewness_moves_the_interval_to_the_long_tail():
    """Symmetric values: scipy's t. Skewed ones: further to the long tail, as the studentised bootstrap is.

    That is Efron and Tibshirani's bootstrap-t (An Introduction to the Bootstrap, section 12.5), drawn here.
    """
    from scipy.stats import ttest_1samp

    half = np.abs(normal(20))
    symmetric = np.concatenate([half, -half])
    estimate = interval(one_group(symmetric))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(ttest_1samp(symmetric, 0).confidence_interval()))
    skewed = np.random.default_rng(1).exponential(size=60)
    estimate = interval(one_group(skewed))
    error = skewed.std(ddof=1) / 60**0.5
    picks = skewed[np.random.default_rng(2).integers(60, size=(20000, 60))]
    studentised = (picks.mean(axis=1) - skewed.mean()) / (picks.std(axis=1, ddof=1) / 60**0.5)
    low, high = skewed.mean() - np.percentile(studentised, [97.5, 2.5]) * error
    assert estimate.high - estimate.mean > 1.1 * (estimate.mean - estimate.low)
    mirrored = interval(one_group(-skewed))
    assert (-mirrored.high, -mirrored.low) == pytest.approx((estimate.low, estimate.high))
    plain = ttest_1samp(skewed, 0).confidence_interval()
    assert plain.low + 0.1 * error < estimate.low < low + 0.4 * error
    assert plain.high + 0.2 * error < estimate.high < high


@pytest.mark.parametrize("count", [4, 12, 60])
@pytest.mark.parametrize("paired", [True, False])
def test_p_is_below_a_twentieth_where_the_interval_excludes_0(count: int, paired: bool):
    rng = np.random.default_rng(count)
    distinguishable = set()
    for _ in range(200):
        first = rng.exponential(size=count) + rng.uniform(0, 3 / count**0.5)
        second = rng.exponential(size=count if paired else count + 2)
        estimate = difference(one_each(first), one_each(second))
        assert estimate.paired == paired
        assert estimate.distinguishable == (estimate.p < 0.05)
        distinguishable.add(estimate.distinguishable)
    assert distinguishable == {True, False}


def test_holm_by_hand():
    """0.005 counts four times, 0.01 three times, 0.03 twice, and 0.04 cannot be below 0.03."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_identical_methods_differ_by_nothing():
    values = one_each(normal(12))
    estimate = difference(values, dict(reversed(values.items())))
    assert (estimate.mean, estimate.low, estimate.high, estimate.paired) == (0, 0, 0, True)
    assert not estimate.distinguishable


def test_a_constant_shift_is_exact_in_pairs_and_lost_without():
    hard_and_easy = 10 * normal(15)
    first, second = one_each(hard_and_easy + 0.25), one_each(hard_and_easy)
    estimate = difference(first, second)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))
    assert estimate.paired
    assert estimate.distinguishable
    assert (estimate.groups, estimate.values) == (15, 15)
    turned = difference(second, first)
    assert turned.high == pytest.approx(-0.25)
    assert turned.distinguishable
    other_prompts = {("dog", text + "!"): values for (_, text), values in second.items()}
    unpaired = difference(first, other_prompts)
    assert not unpaired.paired
    assert unpaired.low < 0 < unpaired.high
    assert not unpaired.distinguishable


def test_pairs_take_away_what_a_prompt_and_seed_share():
    seeds = 10 * normal(6, 4)
    first = {("dog", str(place)): (row + 1).tolist() for place, row in enumerate(seeds)}
    second = {("dog", str(place)): row.tolist() for place, row in enumerate(seeds)}
    estimate = difference(first, second)
    assert (estimate.low, estimate.high) == pytest.approx((1, 1))
    assert (estimate.groups, estimate.values) == (6, 24)
    other_prompts = difference(first, {("cat", text): values for (_, text), values in second.items()})
    assert other_prompts.low < 0 < other_prompts.high


def test_unequal_groups_are_weighted_by_their_values():
    """The estimate is the mean over all values; its error that of a ratio of sums, here by statsmodels' formula.

    Cluster-robust variance of a constant, with the correction G / (G - 1): sum over groups of (sum of residuals)² / N².
    """
    groups = [[0.0, 1.0, 5.0], [1.0], [2.0, 4.0], [3.0] * 4]
    estimate = interval({("dog", str(place)): group for place, group in enumerate(groups)})
    flat = np.concatenate(groups)
    variance = 4 / 3 * sum((np.array(group) - flat.mean()).sum() ** 2 for group in groups) / len(flat) ** 2
    assert estimate.mean == pytest.approx(flat.mean())
    t = 3.182446305  # of 3 degrees of freedom, from a table
    assert estimate.high - estimate.mean == pytest.approx(t * variance**0.5)
    assert estimate.mean - estimate.low == pytest.approx(estimate.high - estimate.mean)
    assert (estimate.groups, estimate.values) == (4, 10)
    values = {("dog", "a"): [0.0] * 3, ("dog", "b"): [1.0]}
    assert not difference(values, {("dog", "a"): [0.0] * 2, ("dog", "b"): [1.0]}).paired


def test_the_same_values_give_the_same_numbers():
    values, other = one_each(normal(30)), one_each(normal(29, seed=1))
    assert interval(values) == interval(values)
    assert difference(values, other) == difference(values, other)


def test_a_single_value_has_no_interval():
    single, several = one_group(normal(1)), one_group(normal(5))
    assert interval(single) is None
    assert difference(single, single) is None
    assert difference(single, several) is None
    assert difference(several, single) is None
    assert interval({("dog", "a"): [1.0], ("dog", "b"): [2.0]}) is not None


def score(values: tuple[float, ...], texts: tuple[str, ...] = (), subject: str = "dog", seeds=()) -> Score:
    return Score(
        "DINO",
        values,
        "DEFT",
        subject,
        len(values),
        5,
        "demo",
        "all",
        1.0,
        "DINO",
        "resize",
        texts,
        provenance={"seeds": list(seeds)} if seeds else {},
    )


def test_values_by_subject_and_prompt():
    grouped = by_prompt([score((1, 2, 3), ("a", "b", "a")), score((4,), ("a",)), score((5,), ("a",), "cat")])
    assert grouped == {("dog", "a"): [1, 3, 4], ("dog", "b"): [2], ("cat", "a"): [5]}
    assert by_prompt([score((1, 2))]) == {("dog", ""): [1, 2]}  # no prompts known: one group
    assert by_prompt([]) == {}


def test_values_are_in_the_order_of_their_seeds():
    """Two methods pair up whatever order their batches came in: seeds by picture, or one for a batch."""
    one = by_prompt([score((1, 2), ("a", "a"), seeds=(7, 3)), score((3,), ("a",), seeds=(5,))])
    other = by_prompt([score((3,), ("a",), seeds=(5,)), score((2, 1), ("a", "a"), seeds=(3, 7))])
    assert one == other == {("dog", "a"): [2, 3, 1]}
