"""diversity: mean distance of features between pictures of one prompt, over several seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Metric, OfFeatures

if TYPE_CHECKING:
    import torch


def check_several(images: int, compared: int) -> None:
    """Raises ValueError where no picture has another one of its prompt."""
    if not compared:
        raise ValueError(
            "diversity compares pictures of one prompt with each other, but no prompt has two; sample "
            "several seeds of each prompt."
        )


def distances_within(features: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """The distance 1 - cosine of every pair of pictures: [n, d] twice -> [n (n - 1) / 2]."""
    import torch

    rows, columns = torch.triu_indices(len(features), len(features), 1)
    return 1 - (features @ same.T)[rows, columns]


METRIC = Metric(
    "diversity",
    "higher",
    "mean distance of features between pictures of one prompt",
    (OfFeatures(pairing="within", role="within", check=check_several, formula=distances_within),),
)
