"""PaRa (arXiv 2406.05641): delta(W) = -Q Q^T W with Q = qr(B). DEFT without an injection."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..projectors import project_all
from .common import capped, normal, trainable
from .deft import Factors, change, delta, fits, forward, from_tensors, rank, to_lora, to_tensors

__all__ = [
    "NAME",
    "SUFFIXES",
    "OPTIONS",
    "LOW_RANK",
    "Factors",
    "claims",
    "rank",
    "fits",
    "init",
    "factors",
    "factors_of",
    "to_lora",
    "delta",
    "change",
    "forward",
    "to_tensors",
    "from_tensors",
]

NAME = "para"
SUFFIXES = ("deft_Q", "deft_right", "deft_P")
OPTIONS: tuple[str, ...] = ()
LOW_RANK = True


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a PaRa layer; an alpha may be there and means nothing."""
    found = set(suffixes) - {"alpha"}
    return found in ({"deft_Q"}, {"deft_Q", "deft_right"}, {"deft_P"})


def init(weight: Tensor, rank: int, *, generator: torch.Generator, alpha: float | None = None) -> dict[str, Tensor]:
    """Trainable float32 B [out, r] ~ N(0, 0.02^2) for a weight [out, in, ...]; r = min(rank, out). alpha is not used.

    The change is not zero at the start: PaRa removes a random subspace from the first step on.
    """
    rank = capped(rank, weight.shape[0])
    return trainable({"B": normal((weight.shape[0], rank), generator, weight.device)})


def factors(params: Mapping[str, Tensor], *, alpha: float | None = None) -> Factors:
    """What is applied and saved, differentiable in B. alpha is not used."""
    (found,) = factors_of([params])
    return found


def factors_of(layers: Sequence[Mapping[str, Tensor]], *, alpha: float | None = None) -> list[Factors]:
    """`factors` of many layers at once."""
    return [Factors(Q) for Q, _ in project_all([params["B"] for params in layers], "qr")]
