"""Which checkpoint is recommended and which are called overfitted, on simulated scores whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from deft_pack.scoring.checkpoints import Checkpoint, Recommendation, mean, recommend
from deft_pack.scoring.scores import score_text
from deft_pack.scoring.statistics import difference

STEPS = (100, 200, 300, 400, 500)
PROMPTS, SEEDS, RUNS = 12, 2, 80


def simulated(
    likeness: Sequence[float],
    following: Sequence[float],
    diversity: Sequence[float],
    nearest: Sequence[float],
    seed: int,
    prompts: int = PROMPTS,
    seeds: int = SEEDS,
) -> list[Checkpoint]:
    """Checkpoints of these true means. Prompts differ by more than checkpoints do, seeds by less."""
    random = np.random.default_rng(seed)
    hard = random.normal(0, 0.05, prompts)  # what a prompt makes easy or hard at all checkpoints

    def drawn(level: float, count: int) -> dict[tuple[str, str], list[float]]:
        own = hard + random.normal(0, 0.008, prompts)
        return {
            ("", f"prompt {at}"): (level + own[at] + random.normal(0, 0.008, count)).tolist() for at in range(prompts)
        }

    return [
        Checkpoint(f"step {step}", step, 1.0, drawn(one, seeds), drawn(two, seeds), drawn(three, 1), drawn(four, seeds))
        for step, one, two, three, four in zip(STEPS, likeness, following, diversity, nearest)
    ]


LEVEL = (0.5,) * 5
FAR = (0.6,) * 5  # from the nearest photo
PHOTOS = 0.75


def of_runs(*truth: Sequence[float], prompts: int = PROMPTS, seeds: int = SEEDS) -> list[Recommendation]:
    return [recommend(simulated(*truth, seed, prompts, seeds), photos=PHOTOS) for seed in range(RUNS)]


def test_where_likeness_stands_still_and_the_prompt_is_lost_the_first_of_the_best_is_taken() -> None:
    """The likeness is as good from step 200 on, and only that step follows the prompt."""
    chosen = of_runs((0.60, 0.80, 0.80, 0.80, 0.80), (0.33, 0.32, 0.29, 0.27, 0.25), LEVEL, FAR)
    assert sum(one.best == 1 for one in chosen) >= 0.95 * RUNS
    assert sum(one.best == 0 for one in chosen) == 0
    assert all("better" in one.reason for one in chosen if one.best == 1 and "not distinguishable" in one.reason)


def test_the_reason_names_both_metrics_with_their_numbers() -> None:
    one = Checkpoint("step 1", 1, 1.0, {}, {}, {})
    groups = [("", text) for text in "abcdef"]
    wobble = (0.001, -0.001, 0.002, -0.002, 0.0, 0.0)
    early = replace(
        one,
        likeness={group: [0.8 + off] for group, off in zip(groups, wobble)},
        following={group: [0.33 + off] for group, off in zip(groups, wobble)},
    )
    late = replace(
        one,
        name="step 2",
        step=2,
        likeness={group: [0.8005] for group in groups},
        following={group: [0.30] for group in groups},
    )
    recommendation = recommend([early, late], "DINO", "CLIP-T", base={group: [0.4] for group in groups})
    assert recommendation.best == 0
    assert recommendation.reason.startswith(
        "Recommended: step 1. DINO not distinguishable from step 2 (0.800, 0.800), CLIP-T better, 0.030 [0.02"
    )
    assert not recommendation.overfitted
    assert recommendation.remarks == ()


def test_where_the_prompt_is_followed_alike_the_most_like_is_taken() -> None:
    chosen = of_runs((0.50, 0.60, 0.70, 0.80, 0.86), (0.30,) * 5, LEVEL, FAR)
    assert sum(one.best == 4 for one in chosen) == RUNS
    assert all("none as good" not in one.reason or one.best == 4 for one in chosen)


def test_without_any_difference_few_are_called_overfitted() -> None:
    # All close to the photos, so that one sign is there.
    recommendations = of_runs((0.8,) * 5, (0.3,) * 5, LEVEL, (0.9,) * 5)
    assert sum(bool(one.overfitted) for one in recommendations) <= 0.07 * RUNS


def test_likeness_for_prompt_following_is_no_overfitting_by_itself() -> None:
    recommendations = of_runs((0.50, 0.60, 0.70, 0.80, 0.86), (0.34, 0.33, 0.32, 0.31, 0.30), LEVEL, FAR)
    assert sum(bool(one.overfitted) for one in recommendations) <= 0.07 * RUNS


def test_what_the_recommended_one_has_lost_is_said() -> None:
    """Much more like the subject, and much less what the prompt says: it is still the one most like, and no more than
    that. The remark has the difference's own numbers, and which checkpoint to take instead.
    """
    truth = (0.55, 0.66, 0.72, 0.80, 0.86), (0.502, 0.45, 0.39, 0.33, 0.293), LEVEL, FAR
    items = simulated(*truth, 0)
    recommendation = recommend(items, "DINO", "CLIP-T", PHOTOS)
    assert recommendation.best == 4
    assert not recommendation.overfitted
    first, last, other = items[0], items[4], items[3]
    lost = difference(first.following, last.following)
    assert lost is not None
    size, low, high = (score_text(value) for value in (lost.mean, lost.low, lost.high))
    assert lost.low < 0.502 - 0.293 < lost.high
    assert recommendation.remarks == (
        f"step 500 has lost prompt following: against step 100 CLIP-T down ({size} [{low}, {high}]). "
        f"For more of it take step 400 (DINO {score_text(mean(other.likeness))}, CLIP-T "
        f"{score_text(mean(other.following))}), a lower strength, or train for fewer steps.",
    )
    assert recommendation.text().splitlines()[-1] == recommendation.remarks[0]
    assert all(one.remarks for one in of_runs(*truth))


def test_another_strength_that_was_compared_is_what_to_take_for_more() -> None:
    """The advice is a lower strength where its checkpoint is more like the subject than an earlier one, and follows."""
    strong = simulated((0.55, 0.66, 0.72, 0.80, 0.90), (0.50, 0.45, 0.39, 0.33, 0.29), LEVEL, FAR, 0)
    weak = simulated((0.50, 0.60, 0.70, 0.78, 0.86), (0.50, 0.46, 0.42, 0.40, 0.38), LEVEL, FAR, 0)
    weak = [replace(item, name=f"{item.name} at 0.6", strength=0.6) for item in weak]
    recommendation = recommend([*weak, *strong], photos=PHOTOS)
    assert recommendation.best == 9
    (remark,) = recommendation.remarks
    assert "step 500 has lost prompt following: against step 100 prompt following down" in remark
    assert "For more of it take step 500 at 0.6 (" in remark
    assert remark.endswith(") or train for fewer steps.")


def test_nothing_is_said_where_nothing_is_lost() -> None:
    recommendations = of_runs((0.50, 0.60, 0.70, 0.80, 0.86), (0.30,) * 5, LEVEL, FAR)
    assert sum(bool(one.remarks) for one in recommendations) <= 0.07 * RUNS
    recommendations = of_runs((0.50, 0.60, 0.70, 0.80, 0.86), (0.30, 0.31, 0.32, 0.33, 0.34), LEVEL, FAR)
    assert not any(one.remarks for one in recommendations)


def test_what_it_has_lost_is_not_looked_for_in_overfitted_ones() -> None:
    """The one that went wrong in between is not what to take for more prompt following."""
    likeness, following = (0.50, 0.60, 0.75, 0.90), (0.40, 0.38, 0.30, 0.22)
    diversity = (0.5, 0.5, 0.1, 0.5)
    recommendations = of_runs(likeness, following, diversity, FAR)
    right = [one for one in recommendations if one.best == 3 and set(one.overfitted) == {2}]
    assert len(right) >= 0.9 * RUNS
    assert all("For more of it take step 200 (" in one.remarks[0] for one in right)


def test_what_nobody_sees_does_not_count_for_a_lost_prompt() -> None:
    """25 prompts and four seeds distinguish .905 and .900: no reason to take what no longer does as it is told."""
    truth = (0.60, 0.80, 0.895, 0.90, 0.905), (0.34, 0.34, 0.33, 0.28, 0.22), LEVEL, FAR
    recommendations = of_runs(*truth, prompts=25, seeds=4)
    assert sum(one.best == 2 for one in recommendations) >= 0.95 * RUNS
    shown = sum("likeness almost that of step" in one.reason for one in recommendations)
    assert shown >= 0.9 * RUNS
    alike = of_runs(truth[0], (0.30,) * 5, LEVEL, FAR, prompts=25, seeds=4)
    assert sum(one.best == 4 for one in alike) >= 0.9 * RUNS


@pytest.mark.parametrize("sign", ["diversity", "nearest"])
def test_overfitting_is_named_and_not_recommended(sign: str) -> None:
    """The likeness goes on rising to the end, where the photos are repeated."""
    recommendations = of_runs(
        (0.50, 0.70, 0.80, 0.88, 0.90),
        (0.34, 0.34, 0.33, 0.26, 0.22),
        (0.5, 0.5, 0.5, 0.3, 0.1) if sign == "diversity" else LEVEL,
        (0.6, 0.6, 0.65, 0.9, 0.95) if sign == "nearest" else FAR,
    )
    assert sum(one.best == 2 for one in recommendations) >= 0.95 * RUNS
    assert sum(set(one.overfitted) == {3, 4} for one in recommendations) >= 0.95 * RUNS
    text = recommendations[0].overfitted[4]
    assert text.startswith("step 500 is overfitted: against step ")
    assert ("diversity down (" in text) == (sign == "diversity")
    assert ("closer to the nearest training photo (0.9" in text) == (sign == "nearest")


def test_a_training_that_went_wrong_is_no_overfitting() -> None:
    """Neither like the subject nor what the prompt says: noise."""
    recommendations = of_runs(
        (0.50, 0.70, 0.80, 0.40, 0.20), (0.34, 0.34, 0.33, 0.20, 0.10), (0.5, 0.5, 0.5, 0.2, 0.1), FAR
    )
    assert sum(bool(one.overfitted) for one in recommendations) <= 0.07 * RUNS
    assert sum(one.best == 2 for one in recommendations) >= 0.95 * RUNS


def test_where_only_the_last_is_left_by_chance_little_training_is_not_enough() -> None:
    """Two prompts distinguish nothing; an early checkpoint has not learnt the subject and is still not taken."""
    recommendations = of_runs((0.45, 0.50, 0.55, 0.80, 0.80), (0.36, 0.35, 0.34, 0.30, 0.30), LEVEL, FAR, prompts=2)
    assert all(one.best >= 3 for one in recommendations)
    assert all("2 prompts: more prompts distinguish more." in one.remarks for one in recommendations)


def test_strengths_are_not_compared_as_steps() -> None:
    """A stronger adapter of one checkpoint is not an overfitted weaker one."""
    weak, *_, strong = simulated((0.6, 0.6, 0.6, 0.6, 0.9), (0.34, 0.34, 0.34, 0.34, 0.2), (0.5,) * 4 + (0.1,), FAR, 1)
    recommendation = recommend([weak, replace(strong, step=weak.step, strength=1.5)], photos=PHOTOS)
    assert not recommendation.overfitted


def test_a_single_checkpoint_and_none() -> None:
    one = simulated((0.6,) * 5, (0.3,) * 5, LEVEL, FAR, 1, prompts=1)
    assert recommend(one[:1]).best == 0
    with pytest.raises(ValueError, match="no checkpoints"):
        recommend([])
