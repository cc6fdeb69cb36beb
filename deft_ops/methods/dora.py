"""DoRA (arXiv 2402.09353): W' = m V / |V| with V = W + s up down; |V| for each output row, or for each input column.

PEFT's layers are `dora_up`, `dora_down`, `dora_magnitude`. LyCORIS's, kohya's and OneTrainer's are a LoRA (OneTrainer's
also with the names of diffusers) with `dora_scale`, whose shape says which side the norms are of; `lora_mid.weight`
makes it one in Tucker form. ComfyUI's own loader takes the norm of W instead of V for output rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .common import alpha_tensor, file_scale, fits_matrix
from .contract import Method
from .factored import exact_pair, fits_magnitude, magnitude_of, of_rows, shapes_of, weighed

NAME = "dora"
_PEFT = ("dora_up", "dora_down", "dora_magnitude")
_LYCORIS = ("lora_up.weight", "lora_down.weight", "dora_scale")
_DIFFUSERS = ("lora_B.weight", "lora_A.weight", "dora_scale")
_MIDDLE = "lora_mid.weight"
SUFFIXES = (*_PEFT, *_LYCORIS, *_DIFFUSERS[:2], _MIDDLE, "alpha")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: up [out, r], down [r, in*], m [out, 1] or [1, in, 1...], and the scale s.

    A middle convolution is in down.
    """

    up: Tensor
    down: Tensor
    magnitude: Tensor
    scale: float = 1.0


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a DoRA layer, in any of the namings."""
    found = set(suffixes) - {"alpha"}
    return found in (set(_PEFT), set(_LYCORIS), set(_DIFFUSERS), {*_LYCORIS, _MIDDLE})


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return _pair(tensors)[1].shape[0]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return fits_matrix(len(factors.up), factors.down.shape[1], shape) and fits_magnitude(factors.magnitude, shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """strength times the change of a weight [out, in, ...], of the same shape, float32.

    `removal` and `injection` mean nothing.
    """
    up, down = (factor.to(weight.device, torch.float32) for factor in (factors.up, factors.down))
    return weighed(factors.scale * (up @ down), weight, factors.magnitude, strength)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    return exact_pair(delta(factors, weight))


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix. Column norms keep LyCORIS's names, the only ones that have them."""
    names = _PEFT if of_rows(factors.magnitude) else _LYCORIS
    tensors = dict(zip(names, (factors.up, factors.down, factors.magnitude), strict=True))
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()} | {
        "alpha": alpha_tensor(factors.scale, factors.up.shape[1])
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries; convolution factors are flattened. Raises ValueError if shapes differ."""
    up, down = _pair(tensors)
    if up.ndim < 2 or down.ndim < 2:
        raise ValueError(f"the up matrix has shape {list(up.shape)}, but the down matrix has {list(down.shape)}")
    up, down, rank = up.flatten(1), down.flatten(1), len(down)
    if _MIDDLE in tensors:
        middle = tensors[_MIDDLE]
        if middle.ndim < 3 or middle.shape[:2] != (up.shape[1], rank):
            raise ValueError(f"the up, mid and down tensors have the shapes {shapes_of(up, middle, down)}")
        down = torch.einsum("m n ..., n c -> m c ...", middle.float(), down.float()).flatten(1)
    if up.shape[1] != len(down):
        raise ValueError(f"the up matrix has shape {list(up.shape)}, but the down matrix has {list(down.shape)}")
    magnitude = tensors["dora_magnitude"].reshape(-1, 1) if "dora_up" in tensors else magnitude_of(tensors)
    assert magnitude is not None
    if of_rows(magnitude) and len(magnitude) != len(up):
        raise ValueError(f"the magnitude has {magnitude.numel()} rows, but the up matrix has {len(up)}")
    return Factors(up, down, magnitude, file_scale(tensors, rank))


def _pair(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    names = next(names for names in (_PEFT, _LYCORIS, _DIFFUSERS) if names[0] in tensors)
    return tensors[names[0]], tensors[names[1]]


METHOD = Method(
    name=NAME,
    title="DoRA",
    source="arXiv 2402.09353",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    has_rank=True,
    sized_by_rank=True,
    core_suffixes=(*_LYCORIS, *_DIFFUSERS, _MIDDLE, "alpha"),
    marks=("dora_scale",),
    peft="there is no writer for it",
)
