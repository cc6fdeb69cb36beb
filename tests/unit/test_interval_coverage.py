"""How often the 95 % intervals hold the true mean, counted on drawn data whose mean is known.

Every count of groups and values that people have: values alone, and prompts with seeds in them, where a prompt moves
all its seeds as much as a seed moves alone. 2000 draws have a standard error of 0.005.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deft_pack.scoring.statistics import difference, interval

DRAWS = 2000
SIZES = [(8, 1), (25, 1), (100, 1), (3, 25), (5, 5), (25, 4)]
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
KINDS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.93),
    "exponential": (lambda rng, shape: rng.exponential(size=shape) - 1, 0.90),  # skewness 2
    "lognormal": (lambda rng, shape: rng.lognormal(0, 0.5, shape) - np.exp(0.125), 0.90),  # skewness 1.75
}


def groups(values: np.ndarray) -> dict[tuple[str, str], list[float]]:
    return {("dog", str(place)): row.tolist() for place, row in enumerate(values)}


def drawn(draw: Draw, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    prompts, seeds = size
    return draw(rng, (prompts, 1)) + (draw(rng, size) if seeds > 1 else 0)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_mean(kind: str, size: tuple[int, int]):
    draw, least = KINDS[kind]
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(DRAWS):
        estimate = interval(groups(drawn(draw, rng, size)))
        held += estimate.low < 0 < estimate.high
    assert held / DRAWS >= least
    assert held / DRAWS <= 0.97  # wider would only hide differences


@pytest.mark.parametrize("size", [(8, 1), (5, 5), (25, 4)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paired", [True, False], ids=["paired", "unpaired"])
def test_intervals_of_differences_hold_it(kind: str, size: tuple[int, int], paired: bool):
    """Two methods that are alike, on the same hard and easy prompts, or on other prompts."""
    draw, least = KINDS[kind]
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(DRAWS):
        prompts = draw(rng, (size[0], 1)) if paired else 0
        first, second = (prompts + drawn(draw, rng, size) for _ in range(2))
        second = second if paired else second[: size[0] - 1] * 2
        estimate = difference(groups(first), groups(second))
        held += estimate.low < 0 < estimate.high
    assert held / DRAWS >= least
