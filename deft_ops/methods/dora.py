"""DoRA (arXiv 2402.09353): W' = m V / |V| with V = W + s up down; |V| for each output row, or for each input column.

PEFT's layers are `dora_up`, `dora_down`, `dora_magnitude`. LyCORIS's and kohya's are a LoRA with `dora_scale`, whose
shape says which side the norms are of. ComfyUI's own loader takes the norm of W instead of V for output rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host import on_host
from .common import alpha_tensor, file_scale, fits_matrix, flat, svd

NAME = "dora"
_PEFT = ("dora_up", "dora_down", "dora_magnitude")
_LYCORIS = ("lora_up.weight", "lora_down.weight", "dora_scale")
SUFFIXES = (*_PEFT, *_LYCORIS, "alpha")
OPTIONS: tuple[str, ...] = ()
LOW_RANK = False


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: up [out, r], down [r, in*], m [out, 1] or [1, in, 1...], and the scale s."""

    up: Tensor
    down: Tensor
    magnitude: Tensor
    scale: float = 1.0


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a DoRA layer, in either naming."""
    return any(set(names) <= set(suffixes) <= {*names, "alpha"} for names in (_PEFT, _LYCORIS))


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return (tensors["dora_down"] if "dora_down" in tensors else tensors["lora_down.weight"]).shape[0]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    rows = factors.magnitude.shape[0] == factors.magnitude.numel()
    return fits_matrix(len(factors.up), factors.down.shape[1], shape) and (
        factors.magnitude.numel() == shape[0 if rows else 1]
    )


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """strength times the change of a weight [out, in, ...], of the same shape, float32.

    `removal` and `injection` mean nothing.
    """
    base = weight.float()
    up, down = factors.up.to(base), factors.down.to(base)
    merged = (flat(weight) + factors.scale * (up @ down)).reshape(weight.shape)
    magnitude = factors.magnitude.to(base)
    rows = magnitude.shape[0] == magnitude.numel()
    others = [dim for dim in range(weight.ndim) if dim != (0 if rows else 1)]
    norms = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    # The smallest step above 1, as LyCORIS adds it, so that a row of zeros stays one.
    norms = norms + torch.finfo(norms.dtype).eps
    return (merged * (magnitude.reshape(norms.shape) / norms) - base) * strength


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    U, sigma, Vh = on_host(svd, delta(factors, weight).flatten(1))
    return U * sigma, Vh


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix. Column norms keep LyCORIS's names, the only ones that have them."""
    names = _PEFT if factors.magnitude.shape[0] == factors.magnitude.numel() else _LYCORIS
    tensors = dict(zip(names, (factors.up, factors.down, factors.magnitude), strict=True))
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()} | {
        "alpha": alpha_tensor(factors.scale, factors.up.shape[1])
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries; convolution factors are flattened. Raises ValueError if shapes differ."""
    up, down, magnitude = (tensors[name] for name in (_PEFT if "dora_up" in tensors else _LYCORIS))
    if up.ndim < 2 or down.ndim < 2 or up.flatten(1).shape[1] != down.shape[0]:
        raise ValueError(f"the up matrix has shape {list(up.shape)}, but the down matrix has {list(down.shape)}")
    if "dora_up" in tensors:
        magnitude = magnitude.reshape(-1, 1)
    elif magnitude.ndim < 2 or magnitude.numel() != max(magnitude.shape):
        raise ValueError(f"dora_scale has shape {list(magnitude.shape)}, but a row or a column of norms is needed")
    elif magnitude.shape[0] == magnitude.numel():
        magnitude = magnitude.reshape(-1, 1)
    if magnitude.shape[1] == 1 and magnitude.shape[0] != up.shape[0]:
        raise ValueError(f"the magnitude has {magnitude.numel()} rows, but the up matrix has {up.shape[0]}")
    return Factors(up.flatten(1), down.flatten(1), magnitude, file_scale(tensors, down.shape[0]))
