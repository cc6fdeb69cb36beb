"""SVDiff (arXiv 2303.11305): W' = U diag(relu(sigma + t d)) V^T with W = U diag(sigma) V^T; the strength t scales d.

Convolutions are flattened to [out, in*]; a 1-D weight [n] (a norm's) is taken as a row [1, n], so that d has one value,
as in the common implementation. d belongs to the order of the base's singular values: another base, another change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import Change, LowRank, WeightChange
from ..host import on_host
from .common import svd, trainable

NAME = "svdiff"
SUFFIXES = ("delta",)
OPTIONS: tuple[str, ...] = ()
LOW_RANK = False


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: the spectral shifts d [min(out, in*)]."""

    shifts: Tensor


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of a base weight: U [out, k], sigma [k], V^T [k, in*], float32."""

    U: Tensor
    sigma: Tensor
    Vh: Tensor


def decompose(weight: Tensor) -> Decomposition:
    """Of a weight [out, in, ...] or [n]."""
    matrix = weight.float()
    matrix = matrix[None] if matrix.ndim == 1 else matrix.flatten(1)
    return Decomposition(*on_host(svd, matrix, slow="Singular value decompositions of the base"))


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is an SVDiff layer."""
    return set(suffixes) == set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The number of singular values that are shifted."""
    return tensors["delta"].numel()


def singular_values(shape: Sequence[int]) -> int:
    """How many a weight of this shape has."""
    return 1 if len(shape) == 1 else min(shape[0], math.prod(shape[1:]))


def kept_values(shape: Sequence[int]) -> tuple[int, int]:
    """How many trained and how many fixed values training keeps of a weight of this shape."""
    k = singular_values(shape)
    return k, k * (1 + shape[0] + math.prod(shape[1:]))


def init(weight: Tensor, rank: int, *, generator: torch.Generator, alpha: float | None = None) -> dict[str, Tensor]:
    """Trainable float32 shifts d = 0 of all singular values, so the change is zero. Nothing else is used."""
    return trainable({"shifts": torch.zeros(singular_values(weight.shape), device=weight.device)})


def factors(params: Mapping[str, Tensor], *, alpha: float | None = None) -> Factors:
    """What is applied and saved. alpha is not used."""
    return Factors(params["shifts"])


def factors_of(layers: Sequence[Mapping[str, Tensor]], *, alpha: float | None = None) -> list[Factors]:
    """`factors` of many layers."""
    return [factors(params) for params in layers]


def _moved(factors: Factors, base: Decomposition, strength: float = 1.0) -> Tensor:
    """The change of the singular values [k]."""
    return torch.relu(base.sigma + strength * factors.shifts.to(base.sigma)) - base.sigma


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return len(factors.shifts) == singular_values(shape)


def delta(
    factors: Factors,
    weight: Tensor,
    *,
    strength: float = 1.0,
    removal: float = 1.0,
    injection: float = 1.0,
    decomposition: Decomposition | None = None,
) -> Tensor:
    """The change of a weight [out, in, ...] or [n], of the same shape, float32. `removal`, `injection` mean nothing."""
    base = decomposition or decompose(weight)
    return ((base.U * _moved(factors, base, strength)) @ base.Vh).reshape(weight.shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k: up [out, k], down [k, in*], the largest changes first."""
    base = decompose(weight)
    moved = _moved(factors, base)
    order = moved.abs().argsort(descending=True, stable=True)
    return (base.U * moved)[:, order], base.Vh[order]


def change(factors: Factors, decomposition: Decomposition) -> Change:
    """The form in training: of full rank on activations, U and V^T fixed. A weight of one row is changed itself."""
    base, moved = decomposition, _moved(factors, decomposition)
    if len(base.U) == 1:
        return WeightChange((base.U * moved) @ base.Vh)
    return LowRank(base.U, base.Vh, middle=moved)


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    return {"delta": factors.shifts.detach().contiguous()}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if the shifts are no vector."""
    shifts = tensors["delta"]
    if shifts.ndim != 1:
        raise ValueError(f"delta has shape {list(shifts.shape)}, but a vector of spectral shifts is needed")
    return Factors(shifts)
