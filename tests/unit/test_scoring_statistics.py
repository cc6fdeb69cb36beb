"""The bootstrap over prompts and seeds, against scipy's and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from deft_pack.scoring import statistics
from deft_pack.scoring.scores import Score
from deft_pack.scoring.statistics import by_prompt, difference, interval


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def one_group(values: np.ndarray) -> dict[tuple[str, str], list[float]]:
    return {("dog", "a dog"): values.tolist()}


def one_each(values: np.ndarray) -> dict[tuple[str, str], list[float]]:
    return {("dog", f"prompt {place}"): [value] for place, value in enumerate(values.tolist())}


@pytest.mark.parametrize("groups", [one_group, one_each])
def test_one_level_is_scipys_percentile_bootstrap(groups):
    """With one group only values are drawn, with one value a group only groups."""
    from scipy.stats import bootstrap

    values = normal(40) + 3
    found = interval(groups(values))
    expected = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", random_state=1)
    noise = 0.05 * expected.standard_error  # of a percentile of 5,000 draws: about 0.03 standard errors
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=noise)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=noise)
    assert found.mean == pytest.approx(values.mean())
    assert found.values == 40


def test_unpaired_difference_is_scipys_of_two_samples():
    from scipy.stats import bootstrap

    first, second = normal(30, seed=1) + 1, 2 * normal(50, seed=2)
    found = difference(one_group(first), one_group(second))
    expected = bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        n_resamples=20000,
        method="percentile",
        random_state=1,
    )
    noise = 0.05 * expected.standard_error
    assert not found.paired
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=noise)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=noise)
    assert (found.groups, found.values) == (1, 30)


def test_intervals_cover_the_mean_of_grouped_data():
    """Where prompts vary as much as seeds, intervals of both levels hold the truth; those of values alone do not."""
    both = alone = 0
    for seed in range(100):
        values = normal(20, 1, seed=2 * seed) + normal(20, 5, seed=2 * seed + 1)
        grouped = interval({("dog", str(place)): row.tolist() for place, row in enumerate(values)})
        flat = interval(one_group(values.ravel()))
        both += grouped.low < 0 < grouped.high
        alone += flat.low < 0 < flat.high
    assert both >= 90 > 80 > alone


def test_identical_methods_differ_by_nothing():
    values = one_each(normal(12))
    found = difference(values, dict(reversed(values.items())))
    assert (found.mean, found.low, found.high, found.paired) == (0, 0, 0, True)
    assert not found.distinguishable


def test_a_constant_shift_is_exact_in_pairs_and_lost_without():
    hard_and_easy = 10 * normal(15)
    first, second = one_each(hard_and_easy + 0.25), one_each(hard_and_easy)
    found = difference(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.paired
    assert found.distinguishable
    assert (found.groups, found.values) == (15, 15)
    turned = difference(second, first)
    assert turned.high == pytest.approx(-0.25)
    assert turned.distinguishable
    other_prompts = {("dog", text + "!"): values for (_, text), values in second.items()}
    unpaired = difference(first, other_prompts)
    assert not unpaired.paired
    assert unpaired.low < 0 < unpaired.high
    assert not unpaired.distinguishable


def test_pairs_are_value_by_value_within_a_group():
    seeds = 10 * normal(6, 4)
    first = {("dog", str(place)): (row + 1).tolist() for place, row in enumerate(seeds)}
    second = {("dog", str(place)): row.tolist() for place, row in enumerate(seeds)}
    found = difference(first, second)
    assert (found.low, found.high, found.groups, found.values) == (pytest.approx(1), pytest.approx(1), 6, 24)
    crossed = difference(first, {group: values[::-1] for group, values in second.items()})
    assert crossed.paired
    assert crossed.mean == pytest.approx(1)
    assert crossed.low < 0 < crossed.high


def test_unequal_groups_are_weighted_by_their_values():
    """The estimate is the mean over all values. By hand: which two groups are drawn decides the mean, as 0s and 1s."""
    values = {("dog", "a"): [0.0] * 3, ("dog", "b"): [1.0]}
    found = interval(values)
    assert found.mean == pytest.approx(0.25)
    assert (found.low, found.high) == (0, 1)
    assert found.groups == 2
    means = statistics._resampled([np.zeros(3), np.ones(1)], np.random.default_rng(0))
    shares = [np.isclose(means, value).mean() for value in (0, 0.25, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert not difference(values, {("dog", "a"): [0.0] * 2, ("dog", "b"): [1.0]}).paired


def test_equal_and_unequal_groups_are_drawn_alike():
    groups = [row + place for place, row in enumerate(normal(8, 5))]
    rng = np.random.default_rng(0)
    flat, sizes = np.concatenate(groups), np.full(8, 5)
    equal, unequal = (draw(flat, sizes, 5000, rng) for draw in (statistics._draw_equal, statistics._draw_unequal))
    assert equal.mean() == pytest.approx(unequal.mean(), abs=0.1)
    assert equal.std() == pytest.approx(unequal.std(), rel=0.05)
    assert np.percentile(equal, [2.5, 97.5]) == pytest.approx(np.percentile(unequal, [2.5, 97.5]), abs=0.15)


def test_the_same_values_give_the_same_numbers():
    values, other = one_each(normal(30)), one_each(normal(29, seed=1))
    assert interval(values) == interval(values)
    assert difference(values, other) == difference(values, other)
    np.random.seed(3)
    assert interval(values) == interval(values)


def test_a_single_value_has_no_interval():
    single, several = one_group(normal(1)), one_group(normal(5))
    assert interval(single) is None
    assert difference(single, single) is None
    assert difference(single, several) is None
    assert difference(several, single) is None
    assert interval({("dog", "a"): [1.0], ("dog", "b"): [2.0]}) is not None


@pytest.mark.parametrize("sizes", [[10_000], [1] * 1350, [4, 3] * 400, [10_000] + [1] * 500])
def test_chunks_bound_the_memory(monkeypatch, sizes):
    """No call draws more than about a million numbers, and all draws are made."""
    held = []
    for name in ("_draw_equal", "_draw_unequal"):
        real = getattr(statistics, name)

        def draw(flat, sizes, count, rng, real=real):
            held.append(count * len(flat))
            return real(flat, sizes, count, rng)

        monkeypatch.setattr(statistics, name, draw)
    groups = [normal(size, seed=place) for place, size in enumerate(sizes)]
    means = statistics._resampled(groups, np.random.default_rng(0))
    assert means.shape == (statistics.DRAWS,)
    assert max(held) <= statistics.NUMBERS
    assert sum(held) == statistics.DRAWS * sum(sizes)
    assert means.mean() == pytest.approx(np.concatenate(groups).mean(), abs=0.05)


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
    found = by_prompt([score((1, 2, 3), ("a", "b", "a")), score((4,), ("a",)), score((5,), ("a",), "cat")])
    assert found == {("dog", "a"): [1, 3, 4], ("dog", "b"): [2], ("cat", "a"): [5]}
    assert by_prompt([score((1, 2))]) == {("dog", ""): [1, 2]}  # no prompts known: one group
    assert by_prompt([]) == {}


def test_values_are_in_the_order_of_their_seeds():
    """So that two methods pair up whatever order their batches came in: seeds by picture, or one for a batch."""
    one = by_prompt([score((1, 2), ("a", "a"), seeds=(7, 3)), score((3,), ("a",), seeds=(5,))])
    other = by_prompt([score((3,), ("a",), seeds=(5,)), score((2, 1), ("a", "a"), seeds=(3, 7))])
    assert one == other == {("dog", "a"): [2, 3, 1]}
