"""Helpers of the methods: capped ranks, scales, private random numbers, moving factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

INIT_STD = 0.02  # of P, R and B in the DEFT repository and in PEFT

_FactorsT = TypeVar("_FactorsT")


def flat(weight: Tensor) -> Tensor:
    """A weight [out, in, ...] as a float32 matrix [out, in*]."""
    return weight.flatten(1).float()


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD of a matrix [out, in]: U [out, k], sigma [k], V^T [k, in], k = min(out, in). Call it by `on_host`."""
    U, sigma, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U, sigma, Vh


def fits_matrix(rows: int, columns: int | None, shape: tuple[int, ...]) -> bool:
    """Whether a change of [rows, columns] (None: any) belongs to a weight of this shape [out, in, ...]."""
    return len(shape) > 1 and rows == shape[0] and columns in (None, math.prod(shape[1:]))


def capped(rank: int, limit: int) -> int:
    """The rank, at most `limit`. Raises ValueError below 1."""
    if rank < 1:
        raise ValueError(f"The rank must be at least 1, not {rank}.")
    return min(rank, limit)


def scale_of(alpha: float | None, rank: int) -> float:
    """The scale alpha / rank, or 1 without an alpha. Raises ValueError unless alpha is positive."""
    if alpha is None:
        return 1.0
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, not {alpha}: without alpha the scale is 1.")
    return float(alpha) / rank


def normal(shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Random float32 numbers from N(0, 0.02^2), drawn on the generator's device and moved to `device`."""
    return torch.randn(shape, generator=generator, device=generator.device).mul_(INIT_STD).to(device)


def trainable(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as leaves that take a gradient."""
    return {name: tensor.detach().requires_grad_(True) for name, tensor in params.items()}


def smaller_side(params: Mapping[str, Tensor]) -> int:
    """The rank of low-rank factors: the smaller side of the first."""
    return min(next(iter(params.values())).shape)


def alpha_tensor(scale: float, rank: int) -> Tensor:
    """The alpha that files hold for a scale: scale * rank, 0-d float32."""
    return torch.tensor(scale * rank, dtype=torch.float32)


def alpha_of(tensors: Mapping[str, Tensor]) -> float | None:
    """The alpha of a layer's tensors, None without one. Raises ValueError if it is not one number."""
    alpha = tensors.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"alpha has shape {list(alpha.shape)}, but one number is needed")
    return None if alpha is None else float(alpha)


def file_scale(tensors: Mapping[str, Tensor], rank: int) -> float:
    """The scale that a layer's tensors name: alpha / rank, or 1 without an alpha. Raises ValueError without a rank."""
    alpha = alpha_of(tensors)
    if rank < 1:
        raise ValueError("a factor has the rank 0")
    return 1.0 if alpha is None else alpha / rank


def move(factors: _FactorsT, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> _FactorsT:
    """The same factors on a device and in a dtype (either may be None: unchanged)."""
    tensors: dict[str, Any] = {}
    for field in fields(factors):  # type: ignore[arg-type]
        value = getattr(factors, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value.to(device=device, dtype=dtype)
    return replace(factors, **tensors)  # type: ignore[type-var]
