"""Which checkpoint of a training to take, and which have learnt too much, by scores of the same prompts and seeds.

Overfitted is a checkpoint that follows the prompt less than an earlier one of the same strength, is no less like the
subject, and either gives less different pictures of a prompt, or pictures closer to a training photo than the photos
are to each other. Among the others the likeness decides. Another one than the most like is recommended only where its
likeness is as good (not distinguishable from that, with most of what the training gained, or short of it by next to
nothing) and its prompt following is better beyond chance. Each set of comparisons is corrected for their number (Holm).

Lower prompt following alone is no overfitting: a text encoder's score also falls where the pictures are less like the
class word, whatever else the prompt asks for and gets. What the recommended one has lost of it is a remark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .scores import score_text
from .statistics import LEVEL, Difference, Values, difference, holm, interval

_Key = TypeVar("_Key")

# Shares of the likeness that the training has added. Few prompts distinguish nothing, and many what nobody sees:
# neither is a reason by itself.
GAINED, ALL_BUT = 0.8, 0.95
_FEW = 5  # prompts: below, intervals are wide


@dataclass(frozen=True)
class Checkpoint:
    """The scores of a checkpoint at a strength, by prompt, of the same seeds as those of the others.

    diversity: of pairs of pictures of a prompt; none with one seed. nearest: of each picture the highest cosine to a
    training photo; none where that is not measured.
    """

    name: str
    step: float
    strength: float
    likeness: Values
    following: Values
    diversity: Values = field(default_factory=dict)
    nearest: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Recommendation:
    """best: the place of the recommended checkpoint. overfitted: by the places of the others, why."""

    best: int
    reason: str
    overfitted: Mapping[int, str]
    remarks: tuple[str, ...] = ()

    def text(self) -> str:
        """The recommendation and all reasons, a line each."""
        return "\n".join([self.reason, *self.overfitted.values(), *self.remarks])


def mean(values: Values) -> float:
    """The mean over all values."""
    flat = [value for group in values.values() for value in group]
    return math.fsum(flat) / len(flat)


def recommend(
    checkpoints: Sequence[Checkpoint],
    likeness: str = "likeness",
    following: str = "prompt following",
    photos: float | None = None,
    base: Values | None = None,
) -> Recommendation:
    """The checkpoint to take, with the reason in a sentence.

    likeness, following: the names of the two metrics, of both of which more is better. photos: the mean cosine of each
    training photo to its nearest other one. base: the likeness without an adapter; without it the lowest of the
    checkpoints stands for it. Raises ValueError for no checkpoints.
    """
    if not checkpoints:
        raise ValueError("There are no checkpoints to compare.")
    falls = _changes(checkpoints, lambda item: item.following)
    overfitted = _overfitted(checkpoints, falls, likeness, following, photos)
    # Never empty: the first of a strength has none to be overfitted against.
    places = [place for place in range(len(checkpoints)) if place not in overfitted]
    top = max(places, key=lambda place: (mean(checkpoints[place].likeness), -checkpoints[place].step))
    near = _near(checkpoints, places, top, base)
    better = _better(checkpoints, near, top)
    best = max(better, key=lambda place: mean(checkpoints[place].following), default=top)
    groups = len(checkpoints[0].likeness)
    remarks = _lost(checkpoints, falls, best, overfitted, likeness, following)
    if groups < _FEW:
        remarks.append(f"{groups} prompt{'s' * (groups > 1)}: more prompts distinguish more.")
    name, other = checkpoints[best].name, checkpoints[top].name
    if best != top:
        one, two = (score_text(mean(checkpoints[place].likeness)) for place in (best, top))
        like = f"{'not distinguishable from' if near[best] else 'almost that of'} {other}"
        reason = f"Recommended: {name}. {likeness} {like} ({one}, {two}), {following} better, {_amount(better[best])}."
    else:
        about = f"{likeness} {score_text(mean(checkpoints[top].likeness))}{_around(checkpoints[top].likeness)}"
        rivals = "of those that are not overfitted" if overfitted and len(places) > 1 else "of all"
        only = "it alone is not overfitted" if overfitted and len(places) == 1 else f"best {rivals}"
        reason = f"Recommended: {name}. {about}, {only}"
        reason += f"; none as good in that has better {following} beyond chance." if len(near) > 1 else "."
    return Recommendation(best, reason, overfitted, tuple(remarks))


def _changes(
    checkpoints: Sequence[Checkpoint], of: Callable[[Checkpoint], Values]
) -> dict[tuple[int, int], Difference]:
    """Scores of a later checkpoint minus those of an earlier one of the same strength, by the places of both, where
    that is not 0; of each strength corrected for the number of its pairs.
    """
    result: dict[tuple[int, int], Difference] = {}
    for strength in dict.fromkeys(item.strength for item in checkpoints):
        own = sorted(
            (place for place, item in enumerate(checkpoints) if item.strength == strength),
            key=lambda place: checkpoints[place].step,
        )
        result |= _distinguishable(
            {
                (late, early): shown
                for at, late in enumerate(own)
                for early in own[:at]
                if (one := of(checkpoints[late])) and (two := of(checkpoints[early]))
                if (shown := difference(one, two)) is not None
            }
        )
    return result


def _earlier(checkpoints: Sequence[Checkpoint], falls: Mapping[tuple[int, int], Difference], late: int) -> list[int]:
    """The places of the earlier ones that a checkpoint follows the prompt less than, those that follow best first."""
    places = [early for at, early in falls if at == late and falls[at, early].mean < 0]
    return sorted(places, key=lambda place: -mean(checkpoints[place].following))


def _overfitted(
    checkpoints: Sequence[Checkpoint],
    falls: Mapping[tuple[int, int], Difference],
    likeness: str,
    following: str,
    photos: float | None,
) -> dict[int, str]:
    """The places of the overfitted checkpoints, and what each of them shows. falls: `_changes` of prompt following."""
    result: dict[int, str] = {}
    spreads = _changes(checkpoints, lambda item: item.diversity)
    for late, item in enumerate(checkpoints):
        for early in _earlier(checkpoints, falls, late):
            signs = _signs(item, spreads.get((late, early)), photos)
            gain = difference(item.likeness, checkpoints[early].likeness)
            if signs and gain is not None and not (gain.distinguishable and gain.mean < 0):
                way = "up" if gain.mean > 0 else "not down"
                result[late] = (
                    f"{item.name} is overfitted: against {checkpoints[early].name} {likeness} {way} "
                    f"({_amount(gain)}), {following} down ({_amount(falls[late, early])}), {', '.join(signs)}."
                )
                break
    return result


def _lost(
    checkpoints: Sequence[Checkpoint],
    falls: Mapping[tuple[int, int], Difference],
    best: int,
    overfitted: Mapping[int, str],
    likeness: str,
    following: str,
) -> list[str]:
    """A remark where the recommended checkpoint follows the prompt less than an earlier one: by how much against the
    one that follows best, and which to take for more, of all strengths the most like of those that follow it better.
    falls: as `_overfitted`.
    """
    earlier = _earlier(checkpoints, falls, best)
    if not earlier:
        return []
    others = [place for place in range(len(checkpoints)) if place not in overfitted]
    usable = {place for place in earlier if place not in overfitted} | set(_better(checkpoints, others, best))
    other = checkpoints[max(usable or earlier, key=lambda place: mean(checkpoints[place].likeness))]
    scores = f"{likeness} {score_text(mean(other.likeness))}, {following} {score_text(mean(other.following))}"
    is_lowest = checkpoints[best].strength <= min(item.strength for item in checkpoints)
    return [
        f"{checkpoints[best].name} has lost prompt following: against {checkpoints[earlier[0]].name} {following} down "
        f"({_amount(falls[best, earlier[0]])}). For more of it take {other.name} ({scores})"
        f"{', a lower strength,' if is_lowest else ''} or train for fewer steps."
    ]


def _signs(late: Checkpoint, spread: Difference | None, photos: float | None) -> list[str]:
    """What else shows that a checkpoint has learnt its photos rather than their subject. spread: its diversity minus
    that of the earlier one, where that is not 0.
    """
    signs = []
    if spread is not None and spread.mean < 0:
        signs.append(f"diversity down ({_amount(spread)})")
    if late.nearest and photos is not None:
        closest, bounds = mean(late.nearest), interval(late.nearest)
        if closest > photos and (bounds is None or bounds.low > photos):
            signs.append(
                f"closer to the nearest training photo ({score_text(closest)}) than the photos are to each other "
                f"({score_text(photos)})"
            )
    return signs


def _near(checkpoints: Sequence[Checkpoint], places: Sequence[int], top: int, base: Values | None) -> dict[int, bool]:
    """The places whose likeness is as good as that of the top one, itself among them, and whether it is not
    distinguishable from that.
    """
    best = mean(checkpoints[top].likeness)
    floor = mean(base) if base else min(mean(checkpoints[place].likeness) for place in places)
    gained = max(0.0, best - floor)
    lower = _distinguishable(
        {
            place: shown
            for place in places
            if place != top
            and (shown := difference(checkpoints[place].likeness, checkpoints[top].likeness)) is not None
        }
    )
    return {
        place: place not in lower
        for place in places
        if mean(checkpoints[place].likeness) >= best - (1 - (ALL_BUT if place in lower else GAINED)) * gained
    }


def _better(checkpoints: Sequence[Checkpoint], near: Iterable[int], top: int) -> dict[int, Difference]:
    """The places of those that follow the prompt better than the top one, beyond chance."""
    shown = {
        place: gain
        for place in near
        if place != top and (gain := difference(checkpoints[place].following, checkpoints[top].following)) is not None
    }
    return {place: gain for place, gain in _distinguishable(shown).items() if gain.mean > 0}


def _distinguishable(differences: Mapping[_Key, Difference]) -> dict[_Key, Difference]:
    """The differences that are not 0, corrected for the number of all."""
    adjusted = holm([shown.p for shown in differences.values()])
    return {key: shown for (key, shown), p in zip(differences.items(), adjusted) if p < LEVEL}


def _amount(shown: Difference) -> str:
    """The size of a difference with its interval; below 0 is what may be of the other direction."""
    low, high = (shown.low, shown.high) if shown.mean >= 0 else (-shown.high, -shown.low)
    return f"{score_text(abs(shown.mean))}{_ends(low, high, shown.mean)}"


def _around(values: Values) -> str:
    """The interval of a mean, in brackets; nothing for a single value."""
    bounds = interval(values)
    return "" if bounds is None else _ends(bounds.low, bounds.high, bounds.mean)


def _ends(low: float, high: float, like: float) -> str:
    return f" [{score_text(low, like)}, {score_text(high, like)}]"
