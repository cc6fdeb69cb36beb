"""SVDiff (arXiv 2303.11305): W' = U diag(relu(sigma + t d)) V^T with W = U diag(sigma) V^T; the strength t scales d.

Convolutions are flattened to [out, in*]; a 1-D weight [n] (a norm's) is taken as a row [1, n], so that d has one value,
as in the common implementation. d belongs to the order of the base's singular values: another base, another change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import Change, LowRank, WeightChange
from ..host import on_host
from ..settings import ALWAYS, WITH_METHOD, Number, entry
from .common import svd, trainable
from .contract import KEEP_DECOMPOSITION, Base, Method, Training, UsualRates

NAME = "svdiff"
SUFFIXES = ("delta",)


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: the spectral shifts d [min(out, in*)]."""

    shifts: Tensor


@dataclass(frozen=True)
class Settings:
    """Settings of an SVDiff training. norm_rate: the common implementation gives norms a thousandth of the rate."""

    norm_rate: float = entry(
        Number(
            at=WITH_METHOD,
            shown=100.0,
            step=0.001,
            start=0.001,
            advanced=True,
            recorded=ALWAYS,
            words="Learning rate of norms relative to that of other layers, if layers is "
            "everything. The common implementation uses 1e-6 and 1e-3.",
        ),
        1.0,
    )
    keep_decomposition: bool = entry(KEEP_DECOMPOSITION, True)


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of a base weight: U [out, k], sigma [k], V^T [k, in*], float32."""

    U: Tensor
    sigma: Tensor
    Vh: Tensor


def decompose(weight: Tensor) -> Decomposition:
    """The singular value decomposition of a weight [out, in, ...] or [n]."""
    matrix = weight.float()
    matrix = matrix[None] if matrix.ndim == 1 else matrix.flatten(1)
    return Decomposition(*on_host(svd, matrix, slow="Singular value decompositions of the base"))


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is an SVDiff layer."""
    return set(suffixes) == set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The number of singular values that are shifted."""
    return tensors["delta"].numel()


def singular_values(shape: Sequence[int]) -> int:
    """The number of singular values of a weight of this shape."""
    return 1 if len(shape) == 1 else min(shape[0], math.prod(shape[1:]))


def kept_values(shape: Sequence[int]) -> tuple[int, int]:
    """The numbers of trained and of fixed values that training keeps of a weight of this shape."""
    k = singular_values(shape)
    return k, k * (1 + shape[0] + math.prod(shape[1:]))


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 shifts d = 0 of all singular values, so the change is zero. Only the weight's shape is used."""
    return trainable({"shifts": torch.zeros(singular_values(weight.shape), device=weight.device)})


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save."""
    return [Factors(params["shifts"]) for params in layers]


def _moved(factors: Factors, base: Decomposition, strength: float = 1.0) -> Tensor:
    """The change of the singular values [k]."""
    return torch.relu(base.sigma + strength * factors.shifts.to(base.sigma)) - base.sigma


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return len(factors.shifts) == singular_values(shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] or [n], of the same shape, float32. `removal`, `injection` are not used."""
    return _delta(factors, weight, decompose(weight), strength)


def _delta(factors: Factors, weight: Tensor, base: Decomposition, strength: float = 1.0) -> Tensor:
    return ((base.U * _moved(factors, base, strength)) @ base.Vh).reshape(weight.shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k: up [out, k], down [k, in*], the largest changes first."""
    base = decompose(weight)
    moved = _moved(factors, base)
    order = moved.abs().argsort(descending=True, stable=True)
    return (base.U * moved)[:, order], base.Vh[order]


def change(factors: Factors, decomposition: Decomposition) -> Change:
    """The change in training: of full rank on activations, U and V^T fixed. A weight of one row is changed itself."""
    base, moved = decomposition, _moved(factors, decomposition)
    if len(base.U) == 1:
        return WeightChange((base.U * moved) @ base.Vh)
    return LowRank(base.U, base.Vh, middle=moved)


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    return {"delta": factors.shifts.detach().contiguous()}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if the shifts are no vector."""
    shifts = tensors["delta"]
    if shifts.ndim != 1:
        raise ValueError(f"delta has shape {list(shifts.shape)}, but a vector of spectral shifts is needed")
    return Factors(shifts)


METHOD = Method(
    name=NAME,
    title="SVDiff",
    source="arXiv 2303.11305",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    peft="PEFT has no layer that shifts singular values",
    training=Training(
        words="scales the singular values of a weight: the smallest files, and a learning rate of 1e-3. The first "
        "run on a model takes minutes to decompose its weights; the result is kept in ComfyUI's user folder",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors, kept),
        base=Base(of=decompose, kind=Decomposition, delta=_delta),
        small=True,
        tables=True,
        kept_values=kept_values,
        rate=lambda parameter, small, settings: settings.norm_rate if small else 1.0,
        usual_rates=UsualRates(1e-3, 1e-3, "svdiff-pytorch"),
    ),
)
