"""What a scoring protocol fixes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ..backbones import BackboneSpec
from ..metrics import OfFeatures, OfPictures, Role, get_metric


@dataclass(frozen=True)
class Measure:
    """One metric of a protocol. Raises ValueError for a pairing that the metric does not have.

    pairing: which of the metric's comparisons: `all` compares each picture with every reference, `matched` picture i
    with reference i, `text` picture i with its text; `base` picture i with the base model's (drift), `prior` pictures
    of the class with every reference (prior preservation), `within` the pictures of one prompt with each other.
    scale: factor on the cosine. floor: cosines below it count as it. optional: skipped, with a remark, without its
    weights. own_factor: the cosine is multiplied by the factor that the model has learnt, too. otherwise: the backbone
    of another measure, which takes its place where its weights are missing; then `instead_of` is what was replaced.
    """

    metric: str
    backbone: BackboneSpec
    pairing: str
    scale: float = 1.0
    floor: float | None = None
    optional: bool = False
    own_factor: bool = False
    otherwise: BackboneSpec | None = None
    instead_of: BackboneSpec | None = None

    def __post_init__(self) -> None:
        """Check the pairing."""
        get_metric(self.metric).comparison(self.pairing)

    @property
    def comparison(self) -> OfFeatures | OfPictures:
        """The comparison of the metric that the pairing names."""
        return get_metric(self.metric).comparison(self.pairing)


@dataclass(frozen=True)
class Protocol:
    """A protocol. about: a sentence for the user. truncate: cut texts that are too long (False: an error).

    first_sentence: of a text only what stands before its first full stop is read.
    """

    name: str
    about: str
    measures: tuple[Measure, ...]
    truncate: bool = True
    first_sentence: bool = False

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
        return replace(
            self,
            measures=tuple(
                measure
                if measure.backbone.kind != "clip"
                else replace(measure, optional=True)
                if measure.comparison.role == "text"
                else replace(measure, backbone=spec)
                for measure in self.measures
            ),
        )

    def without(self, kinds: Collection[str]) -> Protocol:
        """The protocol where some backbones are missing: others take their place, as the measures say."""
        return replace(
            self,
            measures=tuple(
                replace(measure, backbone=measure.otherwise, otherwise=None, instead_of=measure.backbone)
                if measure.backbone.kind in kinds and measure.otherwise and measure.otherwise.kind not in kinds
                else measure
                for measure in self.measures
            ),
        )

    def of(self, *roles: Role) -> tuple[Measure, ...]:
        """The measures that compare with some roles."""
        return tuple(measure for measure in self.measures if measure.comparison.role in roles)
