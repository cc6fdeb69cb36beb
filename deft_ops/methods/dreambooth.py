"""DreamBooth (arXiv 2208.12242): the network's own weights are trained. Its adapter is their difference, W' = W + D.

Layers are written as ComfyUI's own loader reads them, `.diff` and `.diff_b`, and are left to it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import WeightChange
from .common import trainable

NAME = "dreambooth"
SUFFIXES: tuple[str, ...] = ()  # none that are this pack's
OPTIONS: tuple[str, ...] = ()
LOW_RANK = False


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: what is added to the weight [out, in, ...] or [n], and to the bias [out] if there is one."""

    weight: Tensor
    bias: Tensor | None = None


def claims(suffixes: Collection[str]) -> bool:
    """No: ComfyUI's own loader reads such layers."""
    return False


def kept_values(shape: Sequence[int]) -> tuple[int, int]:
    """How many trained and how many fixed values training keeps of a weight of this shape."""
    return math.prod(shape), 0


def init(weight: Tensor, rank: int, *, generator: torch.Generator, alpha: float | None = None) -> dict[str, Tensor]:
    """A trainable float32 difference D = 0 of the weight's shape. Nothing else is used."""
    return trainable({"weight": torch.zeros(weight.shape, device=weight.device)})


def init_bias(bias: Tensor) -> dict[str, Tensor]:
    """The same for the bias [out] of the layer."""
    return trainable({"bias": torch.zeros(bias.shape, device=bias.device)})


def factors(params: Mapping[str, Tensor], *, alpha: float | None = None) -> Factors:
    """What is applied and saved. alpha is not used."""
    return Factors(params["weight"], params.get("bias"))


def factors_of(layers: Sequence[Mapping[str, Tensor]], *, alpha: float | None = None) -> list[Factors]:
    """`factors` of many layers."""
    return [factors(params) for params in layers]


def delta(factors: Factors, weight: Tensor, *, strength: float = 1.0) -> Tensor:
    """strength times the difference of a weight [out, in, ...] or [n], float32."""
    return strength * factors.weight.to(weight.device, torch.float32)


def change(factors: Factors) -> WeightChange:
    """The form in training."""
    return WeightChange(factors.weight, factors.bias)


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    tensors = {"diff": factors.weight.detach().contiguous()}
    if factors.bias is not None:
        tensors["diff_b"] = factors.bias.detach().contiguous()
    return tensors
