"""Likeness to the subject's pictures: the form of CLIP-I, DINO, DINOv2, and of metrics by other image models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Metric, OfFeatures

if TYPE_CHECKING:
    import torch


def all_pairs(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Mean cosine of each image to every reference: [n, d], [m, d] -> [n].

    Its mean is the "average pairwise cosine similarity" of DreamBooth (arXiv 2208.12242, section 4.1).
    """
    return images @ references.mean(dim=0)  # the mean of the cosines, without the n x m matrix


def check_matched(images: int, references: int) -> None:
    """Raises ValueError where picture i has no reference i; one reference serves all."""
    if references not in (1, images):
        raise ValueError(
            f"this protocol compares image i with reference i, but there are {images} images and "
            f"{references} references; give as many references as images, or one."
        )


def matched_pairs(images: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Cosine of each image to what has its place: [n, d], [n or 1, d] -> [n] (DreamBench++)."""
    return (images * partners).sum(dim=1)


def metric(name: str, about: str, decides: int = 0) -> Metric:
    """A metric that compares with every reference, or image i with reference i, as the protocol says."""
    return Metric(
        name,
        "higher",
        about,
        (
            OfFeatures(pairing="all", role="references", formula=all_pairs),
            OfFeatures(pairing="matched", role="references", check=check_matched, by_place=True, formula=matched_pairs),
        ),
        decides,
    )
