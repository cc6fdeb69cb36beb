"""What a scoring protocol fixes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..backbones import BackboneSpec

Pairing = Literal["all", "matched", "text", "base", "prior", "within"]


@dataclass(frozen=True)
class Measure:
    """One metric of a protocol.

    pairing: `all` compares each picture with every reference, `matched` picture i with reference i, `text` picture i
    with its text; `base` picture i with the base model's (drift), `prior` pictures of the class with every reference
    (prior preservation), `within` the pictures of one prompt with each other (diversity).
    scale: factor on the cosine. floor: cosines below it count as it. optional: left out, and said, where the weights
    are not there.
    """

    metric: str
    backbone: BackboneSpec
    pairing: Pairing
    scale: float = 1.0
    floor: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class Protocol:
    """about: a sentence for the user. truncate: cut texts that are too long (False: an error)."""

    name: str
    about: str
    measures: tuple[Measure, ...]
    truncate: bool = True

    @property
    def backbones(self) -> dict[str, BackboneSpec]:
        """The backbones of all measures, by kind; a protocol has one of a kind."""
        return {measure.backbone.kind: measure.backbone for measure in self.measures}

    def needs(self, kind: str) -> bool:
        """Whether a measure that is not optional wants that backbone."""
        return any(measure.backbone.kind == kind and not measure.optional for measure in self.measures)

    def with_clip_encoder(self, name: str, kind: str) -> Protocol:
        """The protocol with CLIP-I by another image encoder; what else its CLIP measures is then optional."""
        spec = BackboneSpec(name, kind, (), "", "")
        return replace(self, measures=tuple(
            measure if measure.backbone.kind != "clip" else replace(measure, optional=True)
            if measure.pairing == "text" else replace(measure, backbone=spec) for measure in self.measures))

    def of(self, *pairings: Pairing) -> tuple[Measure, ...]:
        """The measures of some pairings."""
        return tuple(measure for measure in self.measures if measure.pairing in pairings)
