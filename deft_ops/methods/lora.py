"""LoRA (arXiv 2106.09685): delta(W) = s up down, with s = alpha / rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import LowRank
from ..layer_ops import LayerOp
from ..settings import ALWAYS, Switch, entry
from .common import alpha_tensor, capped, file_scale, fits_matrix, flat, scale_of, smaller_side, trainable
from .contract import ALPHA, RANK, BestPair, Method, Training, UsualRates
from .peft_form import lora_form

NAME = "lora"
SUFFIXES = ("lora_up.weight", "lora_down.weight", "alpha")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: up [out, r], down [r, in*] and the scale s."""

    up: Tensor
    down: Tensor
    scale: float = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings of a LoRA training."""

    rank: int = entry(RANK, 4)
    alpha: float | None = entry(ALPHA, None)
    gaussian_start: bool = entry(
        Switch(
            recorded=ALWAYS,
            later=True,
            advanced=True,
            words="LoRA: initialise down with a normal distribution / rank, as in diffusers' "
            "scripts, whose learning rates are meant for it. Off: Kaiming, as in sd-scripts"
            " and most others, which starts far smaller.",
        ),
        False,
    )


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a plain LoRA layer (no DoRA scale, no middle convolution)."""
    return {"lora_up.weight", "lora_down.weight"} <= set(suffixes) <= set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return tensors["lora_down.weight"].shape[0]


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 up = 0 [out, r] and down [r, in*] for a weight [out, in, ...]; r = min(rank, out, in*).

    down is Kaiming uniform with a = sqrt(5), that is U(-1, 1) / sqrt(in*), as in PEFT; or normal with a deviation of
    1 / r, as PEFT's init_lora_weights "gaussian".
    """
    out, width = weight.flatten(1).shape
    rank = capped(rank, min(out, width))
    if settings.gaussian_start:
        normal = torch.randn((rank, width), generator=generator, device=generator.device) / rank
        return trainable({"up": torch.zeros(out, rank, device=weight.device), "down": normal.to(weight.device)})
    uniform = torch.rand((rank, width), generator=generator, device=generator.device)
    down = ((2 * uniform - 1) / math.sqrt(width)).to(weight.device)
    return trainable({"up": torch.zeros(out, rank, device=weight.device), "down": down})


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save."""
    return [Factors(params["up"], params["down"], scale_of(settings.alpha, params["up"].shape[1])) for params in layers]


def extracted(pair: BestPair) -> Factors:
    """The factors that are this change, with norms of the same size in both."""
    root = pair.squares.sqrt().sqrt()
    up, down = (pair.up * root, pair.down / root[:, None]) if pair.left else (pair.up / root, pair.down * root[:, None])
    return Factors(up.float(), down.float())


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return fits_matrix(len(factors.up), factors.down.shape[1], shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The pair up [out, r] and down [r, in*] with the scale in down, float32. A LoRA has no removal."""
    up = factors.up.to(weight.device, torch.float32)
    return up, (injection * factors.scale) * flat(factors.down.to(weight.device))


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32. A LoRA has no removal."""
    up, down = to_lora(factors, weight, injection=injection)
    return (up @ (strength * down)).reshape(weight.shape)


def change(factors: Factors) -> LowRank:
    """The change on activations."""
    return LowRank(factors.up, factors.down, None, factors.scale)


def forward(
    factors: Factors, op: LayerOp, x: Tensor, y: Tensor, *, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The addition to the layer's output, in the dtype of x. y and the removal are not used."""
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


METHOD = Method(
    name=NAME,
    title="LoRA",
    source="arXiv 2106.09685",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    forward=forward,
    low_rank=True,
    has_rank=True,
    sized_by_rank=True,
    core_suffixes=SUFFIXES,
    marks=("lora",),
    extracted=extracted,
    peft=lora_form,
    training=Training(
        words="only adds, as in other programs",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors),
        given_rank=smaller_side,
        usual_rates=UsualRates(5e-5, 4e-4, "DEFT's repository and diffusers' scripts"),
    ),
)
