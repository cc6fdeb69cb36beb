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
from .contract import Method, NoSettings, Training, UsualRates
from .factored import exact_pair

NAME = "dreambooth"
SUFFIXES: tuple[str, ...] = ()  # none that are this pack's


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: what is added to the weight [out, in, ...] or [n], and to the bias [out] if there is one."""

    weight: Tensor
    bias: Tensor | None = None


def claims(suffixes: Collection[str]) -> bool:
    """Return False: ComfyUI's own loader reads such layers."""
    return False


def kept_values(shape: Sequence[int]) -> tuple[int, int]:
    """The numbers of trained and of fixed values that training keeps of a weight of this shape."""
    return math.prod(shape), 0


def init(weight: Tensor, rank: int, settings: NoSettings, generator: torch.Generator) -> dict[str, Tensor]:
    """A trainable float32 difference D = 0 of the weight's shape. Nothing else is used."""
    return trainable({"weight": torch.zeros(weight.shape, device=weight.device)})


def init_bias(bias: Tensor) -> dict[str, Tensor]:
    """A trainable float32 difference 0 of the bias [out] of the layer."""
    return trainable({"bias": torch.zeros(bias.shape, device=bias.device)})


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: NoSettings) -> list[Factors]:
    """The factors of many layers, to apply and save."""
    return [Factors(params["weight"], params.get("bias")) for params in layers]


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The largest rank that the change can have; 1 of a vector."""
    shape = tensors["diff"].shape
    return min(shape[0], shape[1:].numel()) if len(shape) > 1 else 1


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape, which may be a vector."""
    return tuple(factors.weight.shape) == tuple(shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The difference of a weight [out, in, ...] or [n] times the strength, float32.

    `removal` and `injection` are not used.
    """
    return strength * factors.weight.to(weight.device, torch.float32)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the difference of a matrix."""
    return exact_pair(delta(factors, weight))


def change(factors: Factors) -> WeightChange:
    """The change in training."""
    return WeightChange(factors.weight, factors.bias)


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    tensors = {"diff": factors.weight.detach().contiguous()}
    if factors.bias is not None:
        tensors["diff_b"] = factors.bias.detach().contiguous()
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries."""
    return Factors(tensors["diff"], tensors.get("diff_b"))


METHOD = Method(
    name=NAME,
    title="DreamBooth",
    source="arXiv 2208.12242",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    peft="PEFT has no layer whose adapter is a whole weight's difference",
    training=Training(
        words="trains all values of the layers: a learning rate of 2.5e-6, 16 bytes of memory per value, and "
        "files as large as the layers. Extract Adapter makes a small LoRA or DEFT from the result; "
        "ComfyUI's Save Checkpoint, behind Apply Adapter, a whole model",
        settings=NoSettings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors),
        small=True,
        init_bias=init_bias,
        kept_values=kept_values,
        usual_rates=UsualRates(2.5e-6, 2.5e-6, "DreamBench++"),
    ),
)
