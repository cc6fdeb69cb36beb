"""drift: how far pictures of unrelated prompts move from the base model's.

PEFT's image generation benchmark (method_comparison/image-gen/run.py, `measure_drift`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Metric, OfFeatures

if TYPE_CHECKING:
    import torch


def check_drift(images: int, base: int) -> None:
    """Raises ValueError where picture i has no picture i of the base model's."""
    if images != base:
        raise ValueError(
            f"drift compares picture i with the base model's picture i, but there are {images} and {base};"
            " sample both with the same prompts and seeds."
        )


def drift(images: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The drift (1 - cosine) / 2 from the base model's picture of prompt and seed: [n, d], [n, d] -> [n], 0 to 1."""
    return (1 - (images * base).sum(dim=1)) / 2


METRIC = Metric(
    "drift",
    "lower",
    "how far pictures of unrelated prompts move from the base model's",
    (OfFeatures(pairing="base", role="base", check=check_drift, by_place=True, formula=drift),),
)
