"""Cosine scores of L2-normalised features. Pure functions; each gives one value a generated picture."""

from __future__ import annotations

import torch


def all_pairs(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Mean cosine of each image to every reference: [n, d], [m, d] -> [n].

    Its mean is the "average pairwise cosine similarity" of DreamBooth (arXiv 2208.12242, section 4.1).
    """
    return (images @ references.T).mean(dim=1)


def matched_pairs(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Cosine of each image to the reference of the same place: [n, d], [n or 1, d] -> [n] (DreamBench++).

    Raises ValueError where the counts differ; one reference serves all.
    """
    if len(references) not in (1, len(images)):
        raise ValueError(f"this protocol compares image i with reference i, but there are {len(images)} images and "
                         f"{len(references)} references; give as many references as images, or one.")
    return (images * references).sum(dim=1)


def text_pairs(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosine of each image to its text (CLIP-T): [n, d], [n or 1, d] -> [n]. Raises ValueError on other counts."""
    if len(texts) not in (1, len(images)):
        raise ValueError(f"there are {len(texts)} texts for {len(images)} images; give one text for all, or one a line "
                         "for each image.")
    return (images * texts).sum(dim=1)
