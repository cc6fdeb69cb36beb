"""Helpers of LoHa, LoKr and DoRA: products of factors in the forms that LyCORIS writes, and DoRA's norms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..host import on_host
from .common import fits_matrix, svd
from .contract import Shape

# ------------------------------------------------------------------------------------------------------------ products


def kaiming(shape: Shape, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random float32 from U(-1, 1) / sqrt(columns) for a factor [rows, columns, ...]: Kaiming's with a = sqrt(5)."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return ((2 * uniform - 1) / math.sqrt(math.prod(shape[1:]))).to(device)


def product(rows: Tensor, columns: Tensor, core: Tensor | None) -> Tensor:
    """The product [out, in*], float32, of rows [out, r] and columns [r, in, ...], or LyCORIS' Tucker form of it.

    That is a core [i, j, *kernel], rows [i, out] and columns [j, in], for convolutions.
    """
    if core is None:
        return rows.flatten(1).float() @ columns.flatten(1).float()
    inner = torch.einsum("i j ..., j c -> i c ...", core.float(), columns.float())
    return rows.float().T @ inner.flatten(1)


def product_shape(rows: Tensor, columns: Tensor, core: Tensor | None) -> Shape:
    """The shape [out, in*], or [out, in, *kernel] if the factors have the kernel. Raises ValueError if they misfit."""
    if core is None:
        if rows.ndim > 1 and columns.ndim > 1 and math.prod(rows.shape[1:]) == len(columns):
            return (len(rows), *columns.shape[1:])
        raise ValueError(f"the factors have the shapes {shapes_of(rows, columns)}, which cannot be multiplied")
    if core.ndim > 2 and rows.ndim == columns.ndim == 2 and core.shape[:2] == (len(rows), len(columns)):
        return (rows.shape[1], columns.shape[1], *core.shape[2:])
    raise ValueError(f"the factors have the shapes {shapes_of(core, rows, columns)}, which are no Tucker form")


def shapes_of(*tensors: Tensor) -> str:
    """The shapes of tensors, for a message."""
    return " and ".join(str(list(tensor.shape)) for tensor in tensors)


def fits_weight(change: Shape, shape: Shape) -> bool:
    """Whether a change [out, in*] or [out, in, *kernel] is for a weight of this shape.

    A change without a kernel fits what has as many columns; where one kernel has more dimensions, those are of size 1.
    """
    if not fits_matrix(change[0], math.prod(change[1:]), shape):
        return False
    if len(change) in (2, len(shape)):
        return len(change) == 2 or change == shape
    kernels = ([size for size in of[2:] if size != 1] for of in (change, shape))
    return change[1] == shape[1] and next(kernels) == next(kernels)


def exact_pair(change: Tensor) -> tuple[Tensor, Tensor]:
    """A change [out, in, ...] as up [out, k] and down [k, in*] of full rank k = min(out, in*)."""
    U, sigma, Vh = on_host(svd, change.flatten(1))
    return U * sigma, Vh


# --------------------------------------------------------------------------------------------------------- DoRA's norms


def magnitude_of(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """A layer's dora_scale as [out, 1] or [1, in, 1, ...], None without one. Raises ValueError for another shape.

    A vector is of the rows, as PEFT's lora_magnitude_vector that some programs only rename.
    """
    magnitude = tensors.get("dora_scale")
    if magnitude is None or magnitude.ndim == 1:
        return None if magnitude is None else magnitude.reshape(-1, 1)
    if magnitude.ndim < 2 or magnitude.numel() != max(magnitude.shape[:2]):
        raise ValueError(f"dora_scale has shape {list(magnitude.shape)}, but a row or a column of norms is needed")
    return magnitude.reshape(-1, 1) if of_rows(magnitude) else magnitude


def of_rows(magnitude: Tensor) -> bool:
    """Whether the norms are of output rows; otherwise they are of input columns."""
    return magnitude.shape[0] == magnitude.numel()


def fits_magnitude(magnitude: Tensor | None, shape: Shape) -> bool:
    """Whether there are as many norms as the weight has rows or columns, or none at all."""
    return magnitude is None or magnitude.numel() == shape[0 if of_rows(magnitude) else 1]


def with_norms(merged: Tensor, magnitude: Tensor) -> Tensor:
    """The weight m V / |V| of a merged weight V [out, in, ...], float32; |V| of each output row or input column."""
    dims = [dim for dim in range(merged.ndim) if dim != (0 if of_rows(magnitude) else 1)]
    norms = torch.linalg.vector_norm(merged, dim=dims, keepdim=True)
    # The smallest step above 1, as LyCORIS adds it, so that a row of zeros stays one.
    norms = norms + torch.finfo(norms.dtype).eps
    return merged * (magnitude.to(merged).reshape(norms.shape) / norms)


def weighed(change: Tensor, weight: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """The change of a weight [out, in, ...] by [out, in*], with DoRA's norms if there are any, times the strength."""
    base, change = weight.float(), change.reshape(weight.shape)
    return strength * (change if magnitude is None else with_norms(base + change, magnitude) - base)
