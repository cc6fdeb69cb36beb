"""A metric: its direction, what it compares with what, the check of their numbers, and the formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..backbones import Backbone

Better = Literal["higher", "lower"]

# With what the pictures are compared. references: photos of the subject. text: the text of each. base: the base model's
# pictures of the same prompts and seeds. prior: photos of the subject, where the pictures are of its class. within: the
# other pictures of the same prompt.
Role = Literal["references", "text", "base", "prior", "within"]


def any_number(images: int, compared: int) -> None:
    """The check of a comparison that fits every number of pictures."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One way of comparing; OfFeatures or OfPictures, which have the formula.

    pairing: its name in protocols and records, the same for no two roles. check: called with the numbers of pictures
    and of others (of `within`: how many other pictures the largest group has for each of its own) before anything is
    computed; raises ValueError that says what does not fit. by_place: picture i is compared with other i. whole: the
    background counts, so that the subject's masks are not used.
    """

    pairing: str
    role: Role
    check: Callable[[int, int], None] = field(default=any_number)
    by_place: bool = False
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class OfFeatures(Comparison):
    """Compares L2-normalised features in float64: [n, d] and [m, d] -> one value a picture, or a pair of `within`.

    For `within` the formula gets the pictures of one prompt on both sides.
    """

    formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class OfPictures(Comparison):
    """Compares RGB pictures themselves, by a network that reads two of them; otherwise as OfFeatures."""

    formula: Callable[[Backbone, Sequence[Image.Image], Sequence[Image.Image]], torch.Tensor]


@dataclass(frozen=True)
class Metric:
    """A metric. better: the good direction, for tables. comparisons: a protocol chooses one by its pairing.

    decides: where a protocol has several metrics of likeness or of prompt following, the one with the highest number
    decides between checkpoints, among those of which more is better. None: it never decides.
    """

    name: str
    better: Better
    about: str
    comparisons: tuple[OfFeatures | OfPictures, ...]
    decides: int | None = 0

    def comparison(self, pairing: str) -> OfFeatures | OfPictures:
        """The comparison of that name. Raises ValueError that lists those that there are."""
        for comparison in self.comparisons:
            if comparison.pairing == pairing:
                return comparison
        raise ValueError(
            f"{self.name} is not measured in pairs {pairing!r}, but in "
            f"{' or '.join(repr(comparison.pairing) for comparison in self.comparisons)}."
        )
