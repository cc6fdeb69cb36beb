"""The contract of a recipe: how the reference trainers train a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

# Choices of layers, by their names in `targets.CHOICES`.
ATTENTION, WITH_FEED_FORWARD, ALL_LINEAR = "attention", "attention and feed-forward", "all linear"
# A source that is none: between what references have, or where they have nothing.
OWN_ESTIMATE = "this pack's estimate"
# The source of steps where no trainer of the base has others.
STEPS = f"ai-toolkit's example has 2000, its range is 500 to 4000; how they differ by subject and style: {OWN_ESTIMATE}"
CONSTANT = 1.0  # the shift that changes nothing
# What a recipe has beside the values with a source of their own.
_TEXTS = ("title", "classes", "when", "file", "distilled", "warning", "notes", "sources")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise levels: how a share of noise u in (0, 1) is drawn, and where it is moved to.

    distribution: a name in `formulas.TIMESTEPS`. shift: s of s u / (1 + (s - 1) u). by_size: a name in
    `formulas.SHIFTS`, whose shift follows the picture's size and goes before `shift`. lowest, highest: shares of noise
    outside of these are drawn again.
    """

    distribution: str
    shift: float = CONSTANT
    by_size: str = ""
    lowest: float = 0.0
    highest: float = 1.0

    def words(self) -> str:
        """The noise levels in words, for the report and the documentation."""
        parts = [self.distribution]
        if self.by_size:
            parts.append(f"shift by size as {self.by_size}")
        elif self.shift != CONSTANT:
            parts.append(f"shift {self.shift:g}")
        if (self.lowest, self.highest) != (0, 1):
            parts.append(f"{self.lowest:g} to {self.highest:g}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a base is trained. Rates are those of LoRA with a scale of 1 and a Kaiming start, with AdamW.

    title: what people call it. classes: of comfy.supported_models. when: tells apart bases of one class by ComfyUI's
    configuration of the network. file: tells them apart by the name of the file, as a regular expression. One of the
    two is enough; where neither does, the user says which base it is.
    distilled, warning: names of files with a distilled base, as a regular expression ("" for none, "." for all), and
    the warning of it.
    noise: the noise levels. guidance: the input of networks that have one. dropout: of captions. layers: a name in
    `targets.CHOICES`. rank, rate, schedule, warm_up: as in Settings. steps: for a subject and for a style, pictures one
    by one. sides: of square pictures in pixels, whose area others have; the first is the one to start with. multiple:
    of which both sides are.
    sources: of each of these, by its name. notes: what else is to be known.
    """

    title: str
    classes: tuple[str, ...]
    noise: Noise
    layers: str
    rank: int
    rate: float
    steps: tuple[int, int]
    sides: tuple[int, ...]
    multiple: int
    sources: Mapping[str, str]
    guidance: float | None = None
    dropout: float = 0.0
    schedule: str = "constant"
    warm_up: int = 0
    when: Callable[[Mapping[str, Any]], bool] | None = None
    file: str = ""
    distilled: str = ""
    warning: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        """Check that each value that a recipe gives has a source, and nothing else has one."""
        given = {
            item.name
            for item in fields(self)
            if item.name not in _TEXTS and getattr(self, item.name) != item.default or item.name == "noise"
        }
        assert given == set(self.sources), f"{self.title}: {given ^ set(self.sources)}"
