"""DreamSim (arXiv 2306.09344): distance 1 - cosine to the subject's pictures, tuned on people's judgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Metric, OfFeatures
from .likeness import all_pairs, check_matched, matched_pairs

if TYPE_CHECKING:
    import torch


def to_all(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Mean distance of each image to every reference: [n, d], [m, d] -> [n]."""
    return 1 - all_pairs(images, references)


def to_matched(images: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Distance of each image to the reference of its place: [n, d], [n or 1, d] -> [n]."""
    return 1 - matched_pairs(images, partners)


METRIC = Metric(
    "DreamSim",
    "lower",
    "distance to the subject's pictures, tuned on people's judgements of likeness",
    (
        OfFeatures(pairing="all", role="references", formula=to_all),
        OfFeatures(pairing="matched", role="references", check=check_matched, by_place=True, formula=to_matched),
    ),
)
