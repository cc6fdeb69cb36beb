"""LoRA (arXiv 2106.09685): delta(W) = s up down, with s = alpha / rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import LowRank
from ..layer_ops import LayerOp
from .common import alpha_tensor, capped, file_scale, fits_matrix, flat, scale_of, trainable

NAME = "lora"
SUFFIXES = ("lora_up.weight", "lora_down.weight", "alpha")
OPTIONS: tuple[str, ...] = ()
LOW_RANK = True


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: up [out, r], down [r, in*] and the scale s."""

    up: Tensor
    down: Tensor
    scale: float = 1.0


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a plain LoRA layer (no DoRA scale, no middle convolution)."""
    return {"lora_up.weight", "lora_down.weight"} <= set(suffixes) <= set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return tensors["lora_down.weight"].shape[0]


def init(weight: Tensor, rank: int, *, generator: torch.Generator, alpha: float | None = None) -> dict[str, Tensor]:
    """Trainable float32 up = 0 [out, r] and down [r, in*] for a weight [out, in, ...]; r = min(rank, out, in*).

    down is Kaiming uniform with a = sqrt(5), that is U(-1, 1) / sqrt(in*), as in PEFT. alpha is not used.
    """
    out, width = weight.flatten(1).shape
    rank = capped(rank, min(out, width))
    uniform = torch.rand((rank, width), generator=generator, device=generator.device)
    down = ((2 * uniform - 1) / math.sqrt(width)).to(weight.device)
    return trainable({"up": torch.zeros(out, rank, device=weight.device), "down": down})


def factors(params: Mapping[str, Tensor], *, alpha: float | None = None) -> Factors:
    """What is applied and saved."""
    return Factors(params["up"], params["down"], scale_of(alpha, params["up"].shape[1]))


def factors_of(layers: Sequence[Mapping[str, Tensor]], *, alpha: float | None = None) -> list[Factors]:
    """`factors` of many layers."""
    return [factors(params, alpha=alpha) for params in layers]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return fits_matrix(len(factors.up), factors.down.shape[1], shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """up [out, r] and down [r, in*] with the scale in down, float32. A LoRA has no removal."""
    up = factors.up.to(weight.device, torch.float32)
    return up, (injection * factors.scale) * flat(factors.down.to(weight.device))


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """strength times the change of a weight [out, in, ...], of the same shape, float32. A LoRA has no removal."""
    up, down = to_lora(factors, weight, injection=injection)
    return (up @ (strength * down)).reshape(weight.shape)


def change(factors: Factors) -> LowRank:
    """The form on activations."""
    return LowRank(factors.up, factors.down, None, factors.scale)


def forward(
    factors: Factors, op: LayerOp, x: Tensor, y: Tensor, *, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """What to add to the layer's output, in the dtype of x. y and the removal are not used."""
    return change(factors).forward(op, x, y, injection=injection)


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix; contiguous, as safetensors wants them."""
    return {
        "lora_up.weight": factors.up.detach().contiguous(),
        "lora_down.weight": factors.down.detach().contiguous(),
        "alpha": alpha_tensor(factors.scale, factors.up.shape[1]),
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries; convolution factors are flattened. Raises ValueError if shapes differ."""
    up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
    if up.ndim < 2 or down.ndim < 2 or up.flatten(1).shape[1] != down.shape[0]:
        raise ValueError(f"lora_up.weight has shape {list(up.shape)}, but lora_down.weight has {list(down.shape)}")
    return Factors(up.flatten(1), down.flatten(1), file_scale(tensors, down.shape[0]))
