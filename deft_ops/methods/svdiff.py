"""SVDiff (arXiv 2303.11305): W' = U diag(relu(sigma + t d)) V^T with W = U diag(sigma) V^T; the strength t scales d.

Convolutions are flattened to [out, in*]; a 1-D weight [n] (a norm's) is taken as a row [1, n], so that d has one value,
as in the common implementation. d belongs to the order of the base's singular values: another base, another change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NAME = "svdiff"
SUFFIXES = ("delta",)
OPTIONS: tuple[str, ...] = ()
LOW_RANK = False


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: the spectral shifts d [min(out, in*)]."""

    shifts: Tensor


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is an SVDiff layer."""
    return set(suffixes) == set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The number of singular values that are shifted."""
    return tensors["delta"].numel()


def _shifted(factors: Factors, weight: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """U [out, k], the change of the singular values [k], V^T [k, in*]."""
    matrix = weight.float()
    matrix = matrix[None] if matrix.ndim == 1 else matrix.flatten(1)
    U, sigma, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U, torch.relu(sigma + strength * factors.shifts.to(sigma)) - sigma, Vh


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return len(factors.shifts) == (1 if len(shape) == 1 else min(shape[0], math.prod(shape[1:])))


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] or [n], of the same shape, float32. `removal`, `injection` mean nothing."""
    U, change, Vh = _shifted(factors, weight, strength)
    return ((U * change) @ Vh).reshape(weight.shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k: up [out, k], down [k, in*], the largest changes first."""
    U, change, Vh = _shifted(factors, weight, 1.0)
    order = change.abs().argsort(descending=True, stable=True)
    return (U * change)[:, order], Vh[order]


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    return {"delta": factors.shifts.detach().contiguous()}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if the shifts are no vector."""
    shifts = tensors["delta"]
    if shifts.ndim != 1:
        raise ValueError(f"delta has shape {list(shifts.shape)}, but a vector of spectral shifts is needed")
    return Factors(shifts)
