"""PaRa (arXiv 2406.05641): delta(W) = -Q Q^T W with Q = qr(B). DEFT without an injection."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..projectors import project_all
from ..settings import ALWAYS, WITH_METHOD, Number, entry
from .common import capped, normal, smaller_side, trainable
from .contract import RANK, CoreTraining, Method, Training, UsualRates
from .deft import (
    Factors,
    change,
    core_factors,
    core_params,
    delta,
    fits,
    forward,
    from_tensors,
    rank,
    terms,
    to_lora,
    to_tensors,
)
from .peft_form import deft_form

NAME = "para"
SUFFIXES = ("deft_Q", "deft_right", "deft_P")


@dataclass(frozen=True)
class Settings:
    """Settings of a PaRa training. Source of rank_cap: its authors keep r below out / 40."""

    rank: int = entry(RANK, 4)
    rank_cap: float = entry(
        Number(
            at=WITH_METHOD,
            shown=1000.0,
            step=1.0,
            advanced=True,
            recorded=ALWAYS,
            words="Maximum rank: a layer's rows divided by this; 0: off. The paper uses 40.",
        ),
        0.0,
    )


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a PaRa layer; an alpha may be there and means nothing."""
    present = set(suffixes) - {"alpha"}
    return present in ({"deft_Q"}, {"deft_Q", "deft_right"}, {"deft_P"})


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 B [out, r] ~ N(0, 0.02^2) for a weight [out, in, ...]; r = min(rank, out).

    The change is not zero at the start: PaRa removes a random subspace from the first step on.
    """
    rank = capped(rank, weight.shape[0])
    return trainable({"B": normal((weight.shape[0], rank), generator, weight.device)})


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save, differentiable in B."""
    return [Factors(Q) for Q, _ in project_all([params["B"] for params in layers], "qr")]


def largest_rank(rows: int, settings: Settings) -> int | None:
    """The largest rank, rows / rank_cap; None without a cap."""
    return int(rows / settings.rank_cap) if settings.rank_cap else None


def core_init(weight: Tensor, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The parameter of ComfyUI's own Train LoRA, B under DEFT's name."""
    return {"deft_P": init(weight, rank, Settings(), generator)["B"].detach()}


METHOD = Method(
    name=NAME,
    title="PaRa",
    source="arXiv 2406.05641",
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
    terms=terms,
    peft=deft_form,
    training=Training(
        words="only removes: files half as large as lora's, and an effect from the first step on",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors),
        largest_rank=largest_rank,
        given_rank=smaller_side,
        usual_rates=UsualRates(5e-5, 3e-4, "DEFT's repository and PEFT's picture benchmark"),
    ),
    core_training=CoreTraining(core_init, core_factors, core_params),
)
