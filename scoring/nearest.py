"""How near pictures come to single training photos, and these to each other: what a copy shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .embeddings import embed_images
from .metrics import OfFeatures

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .scorer import Scorer


def among(photos: torch.Tensor) -> list[float]:
    """The highest cosine of each photo to another one, of L2-normalised features [m, d]; none of fewer than two."""
    if len(photos) < 2:
        return []
    cosines = photos @ photos.T
    cosines.fill_diagonal_(-2.0)
    values: list[float] = cosines.max(dim=1).values.tolist()
    return values


def features_of(scorer: Scorer, metric: str, pictures: Sequence[Image.Image]) -> torch.Tensor | None:
    """The features, float64 [n, d], that a metric of the protocol compares; None where it compares no features.

    They are taken from the scorer's store where the pictures were scored before.
    """
    for measure in scorer.protocol.of("references"):
        kind = measure.backbone.kind
        if measure.metric == metric and isinstance(measure.comparison, OfFeatures) and kind in scorer.backbones:
            encoders = {kind: scorer.backbones[kind]}
            return embed_images(encoders, pictures, store=scorer.store).features[kind].double()
    return None
