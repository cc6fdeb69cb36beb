"""copy: cosine to the nearest photo of the training (SSCD, arXiv 2202.10261): near 1 for a picture that copies it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Metric, OfFeatures

if TYPE_CHECKING:
    import torch


def to_nearest(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """The largest cosine of each image to a reference: [n, d], [m, d] -> [n]."""
    return (images @ references.T).max(dim=1).values


METRIC = Metric(
    "copy",
    "lower",
    "likeness to the nearest of the subject's pictures, by a model that finds copies",
    (OfFeatures(pairing="nearest", role="references", whole=True, formula=to_nearest),),
)
