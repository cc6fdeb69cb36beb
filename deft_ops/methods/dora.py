"""DoRA (arXiv 2402.09353): W' = m V / |V| with V = W + s up down; |V| for each output row, or for each input column.

PEFT's layers are `dora_up`, `dora_down`, `dora_magnitude`. LyCORIS's, kohya's and OneTrainer's are a LoRA (OneTrainer's
also with the names of diffusers) with `dora_scale`, whose shape says which side the norms are of; `lora_mid.weight`
makes it one in Tucker form. ComfyUI's own loader takes the norm of W instead of V for output rows. Trained layers are
for it as well: `dora_scale` is m |W| / |V| there, of which it makes W', and `dora_magnitude` beside it is m itself.

Training starts at m = |W| and up = 0, and takes no gradient through |V|, as the paper (4.3) and PEFT do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..changes import LowRank, Rescaled
from ..settings import entry
from .common import alpha_tensor, capped, file_scale, fits_matrix, flat, scale_of, smaller_side, trainable
from .contract import ALPHA, RANK, Method, Training, UsualRates
from .factored import exact_pair, fits_magnitude, kaiming, magnitude_of, of_rows, shapes_of, weighed
from .peft_form import dora_form

NAME = "dora"
_PEFT = ("dora_up", "dora_down", "dora_magnitude")
_LYCORIS = ("lora_up.weight", "lora_down.weight", "dora_scale")
_DIFFUSERS = ("lora_B.weight", "lora_A.weight", "dora_scale")
_TRAINED = (*_LYCORIS, "dora_magnitude")
_MIDDLE = "lora_mid.weight"
SUFFIXES = (*_PEFT, *_LYCORIS, *_DIFFUSERS[:2], _MIDDLE, "alpha")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: up [out, r], down [r, in*], m [out, 1] or [1, in, 1...], and the scale s.

    A middle convolution is in down. for_core: m |W| / |V| [out, 1, ...] of a trained layer, for ComfyUI's own loader.
    """

    up: Tensor
    down: Tensor
    magnitude: Tensor
    scale: float = 1.0
    for_core: Tensor | None = None


@dataclass(frozen=True)
class Settings:
    """Settings of a DoRA training."""

    rank: int = entry(RANK, 4)
    alpha: float | None = entry(ALPHA, None)


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a DoRA layer, in any of the namings."""
    present = set(suffixes) - {"alpha"}
    return present in (set(_PEFT), set(_LYCORIS), set(_TRAINED), set(_DIFFUSERS), {*_LYCORIS, _MIDDLE})


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return _pair(tensors)[1].shape[0]


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 up = 0 [out, r], down [r, in*] and m = |W| [out] for a weight [out, in, ...], as PEFT has them.

    r = min(rank, out, in*).
    """
    out, width = weight.flatten(1).shape
    rank = capped(rank, min(out, width))
    up, down = torch.zeros(out, rank, device=weight.device), kaiming((rank, width), generator, weight.device)
    return trainable({"up": up, "down": down, "magnitude": row_norms(weight)})


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save."""
    return [
        Factors(one["up"], one["down"], one["magnitude"][:, None], scale_of(settings.alpha, one["up"].shape[1]))
        for one in layers
    ]


def row_norms(weight: Tensor) -> Tensor:
    """The row norms |W| [out] of a weight [out, in, ...], float32."""
    return torch.linalg.vector_norm(weight.flatten(1), dim=1, dtype=torch.float32)


@torch.no_grad()
def merged_norms(factors: Factors, weight: Tensor, norms: Tensor) -> Tensor:
    """The row norms |V| [out] of V = W + s up down, from W's: |V|^2 = |W|^2 + 2 s <W, up down> + s^2 |up down|^2.

    Nothing of the weight's size is made. V's norms are W's, to the last bit, where up is zero; none is zero.
    """
    up, down = factors.up.to(norms), factors.down.to(norms)
    with torch.autocast(norms.device.type, enabled=False):
        crossed = (flat(weight) @ down.T).mul_(up).sum(1)
        squared = (up @ (down @ down.T)).mul_(up).sum(1)
    more = factors.scale * (2 * crossed + factors.scale * squared)
    merged = torch.where(more == 0, norms, (norms.square() + more).clamp_min(0).sqrt())
    return merged.clamp_min(torch.finfo(torch.float32).eps)


def change(factors: Factors, weight: Tensor) -> Rescaled:
    """The change on activations."""
    merged = merged_norms(factors, weight, row_norms(weight))
    low_rank = LowRank(factors.up, factors.down, None, factors.scale)
    return Rescaled(low_rank, factors.magnitude.flatten() / merged - 1)


def for_saving(factors: Factors, weight: Tensor) -> Factors:
    """The factors with the tensor that ComfyUI's own loader needs beside them, for this weight [out, in, ...]."""
    norms = row_norms(weight)
    ratio = factors.magnitude.flatten() * norms / merged_norms(factors, weight, norms)
    return replace(factors, for_core=ratio.reshape(-1, *(1 for _ in weight.shape[1:])))


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return fits_matrix(len(factors.up), factors.down.shape[1], shape) and fits_magnitude(factors.magnitude, shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` are not used.
    """
    up, down = (factor.to(weight.device, torch.float32) for factor in (factors.up, factors.down))
    return weighed(factors.scale * (up @ down), weight, factors.magnitude, strength)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    return exact_pair(delta(factors, weight))


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix. Column norms keep LyCORIS's names, the only ones that have them."""
    if factors.for_core is not None:
        values = (factors.up, factors.down, factors.for_core, factors.magnitude.flatten())
        tensors = dict(zip(_TRAINED, values, strict=True))
    else:
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
    row_magnitude = tensors.get("dora_magnitude")
    magnitude = magnitude_of(tensors) if row_magnitude is None else row_magnitude.reshape(-1, 1)
    assert magnitude is not None
    if of_rows(magnitude) and len(magnitude) != len(up):
        raise ValueError(f"the magnitude has {magnitude.numel()} rows, but the up matrix has {len(up)}")
    for_core = None if row_magnitude is None else tensors.get("dora_scale")
    return Factors(up, down, magnitude, file_scale(tensors, rank), for_core)


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
    peft=dora_form,
    training=Training(
        words="a lora that learns the length of each output separately from its direction, which is closer to "
        "training all values and slightly slower",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors, weight()),
        given_rank=smaller_side,
        for_saving=for_saving,
        usual_rates=UsualRates(3e-4, 3e-4, "PEFT's picture benchmark"),
    ),
)
