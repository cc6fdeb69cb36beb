"""What decides between the checkpoints of a training: which two metrics, and what their scores say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from .checkpoints import Checkpoint, Recommendation, mean, recommend
from .metrics import Role, decisive, role_of
from .metrics.copying import to_nearest
from .nearest import among, features_of
from .pictures import digest
from .protocols import Protocol, those_that
from .scorer import Scorer, score
from .scores import Scores
from .statistics import Values, by_prompt


@dataclass(frozen=True)
class Sampled:
    """A checkpoint at a strength with its pictures. name: the label of its scores."""

    name: str
    step: float
    strength: float
    pictures: Sequence[Image.Image]


def likeness_of(scorer: Scorer) -> str:
    """The metric of likeness to the subject that decides; empty where the scorer measures none."""
    return decisive(_measured(scorer, "references"))


def following_of(scorer: Scorer) -> str:
    """The metric of prompt following that decides; empty where the scorer measures none."""
    return decisive(_measured(scorer, "text"))


def _measured(scorer: Scorer, role: Role) -> list[str]:
    measures = scorer.protocol.of(role)
    return [measure.metric for measure in measures if measure.backbone.kind in scorer.backbones]


def _likeness_in(protocol: Protocol) -> str:
    """The metric of likeness to all photos, of whatever number, that a protocol decides by."""
    return decisive(it.metric for it in protocol.of("references") if not it.comparison.by_place)


def _following_in(protocol: Protocol) -> str:
    """The metric of prompt following that a protocol decides by."""
    return decisive(measure.metric for measure in protocol.of("text"))


def _both_in(protocol: Protocol) -> bool:
    return bool(_likeness_in(protocol) and _following_in(protocol))


def deciding(scorer: Scorer) -> tuple[str, str]:
    """The metrics of likeness and of prompt following. Raises ValueError for a protocol without one of them."""
    likeness, following = likeness_of(scorer), following_of(scorer)
    if not likeness or not following:
        raise ValueError(
            f"scorer: the protocol {scorer.protocol.name} does not measure both likeness to the subject and prompt "
            f"following; choose {those_that(_both_in)}."
        )
    return likeness, following


@dataclass(frozen=True)
class Deciding:
    """The metrics that decide, of pictures of the same prompts again and again: likeness to the photos, and where
    there are texts prompt following. texts: one for each picture, or none.

    Raises:
        ValueError: no photos, or a protocol that does not measure what is asked for.
    """

    scorer: Scorer
    photos: Sequence[Image.Image]
    texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what is asked for."""
        name = self.scorer.protocol.name
        if not len(self.photos):
            raise ValueError("references: there are none. Connect the photos of the subject.")
        if not likeness_of(self.scorer):
            raise ValueError(
                f"scorer: the protocol {name} does not measure likeness to the subject; choose "
                f"{those_that(_likeness_in)}."
            )
        if self.texts and not following_of(self.scorer):
            raise ValueError(
                f"text: the protocol {name} does not measure prompt following with this scorer; leave the text empty, "
                f"or choose {those_that(_both_in)}."
            )

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics, the likeness first."""
        return [likeness_of(self.scorer), *([following_of(self.scorer)] if self.texts else [])]

    @property
    def _alone(self) -> Scorer:
        """The scorer with these metrics alone."""
        measures = [
            measure for measure in self.scorer.protocol.of("references", "text") if measure.metric in self.metrics
        ]
        return replace(self.scorer, protocol=replace(self.scorer.protocol, measures=tuple(measures)), left_out={})

    def about(self) -> dict[str, Any]:
        """What the scores depend on beside the pictures."""
        scorer = self._alone
        return {
            "metrics": [
                f"{measure.metric} {measure.pairing} {measure.scale:g}" for measure in scorer.protocol.measures
            ],
            "weights": sorted(backbone.fingerprint for backbone in scorer.encoders(scorer.protocol.measures).values()),
            "photos": [digest(photo) for photo in self.photos],
            "texts": list(self.texts),
        }

    def score(self, pictures: Sequence[Image.Image]) -> tuple[dict[str, float], tuple[str, ...]]:
        """The means by metric, and remarks. Raises ValueError as `score`."""
        scores = score(self._alone, pictures, self.photos, self.texts)
        return {name: scores.value(name) for name in self.metrics}, scores.remarks


def decided(
    scorer: Scorer, scores: Scores, checkpoints: Sequence[Sampled], photos: Sequence[Image.Image], base: str | None
) -> Recommendation:
    """The recommendation among some checkpoints, by their scores. base: the label of those without an adapter."""
    likeness, following = deciding(scorer)
    spread = next((row.metric for row in scores.rows if role_of(row.pairing) == "within"), "")
    real = features_of(scorer, likeness, photos)
    between = among(real) if real is not None else []
    items = []
    for own in checkpoints:
        features = features_of(scorer, likeness, own.pictures) if between else None
        near: dict[tuple[str, str], list[float]] = {}
        if features is not None and real is not None:
            scored = next(score for score in scores.rows if score.label == own.name and score.metric == likeness)
            for text, value in zip(scored.texts, to_nearest(features, real).tolist(), strict=True):
                near.setdefault(("", text), []).append(value)
        items.append(
            Checkpoint(
                own.name,
                own.step,
                own.strength,
                _grouped(scores, own.name, likeness),
                _grouped(scores, own.name, following),
                _grouped(scores, own.name, spread) if spread else {},
                near,
            )
        )
    mutual = mean({("", ""): between}) if between else None
    alone = None if base is None else _grouped(scores, base, likeness)
    return recommend(items, likeness, following, mutual, alone)


def _grouped(scores: Scores, name: str, metric: str) -> Values:
    """The values of a row and metric by prompt."""
    return by_prompt(row for row in scores.rows if row.label == name and row.metric == metric)
