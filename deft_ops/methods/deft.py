"""DEFT (arXiv 2509.22793): delta(W) = Q (s R - right^T W), with (Q, right) = project(P) and s = alpha / rank.

Formula and initialisation as in the paper, its repository and PEFT 0.21's `DeftLayer`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..changes import LowRank
from ..layer_ops import LayerOp
from ..products import transposed_product
from ..projectors import PROJECTORS, project, project_all, raw_qr
from ..settings import ALWAYS, WITH_METHOD, Choice, Either, Number, entry
from .common import (
    INIT_STD,
    alpha_tensor,
    capped,
    file_scale,
    fits_matrix,
    flat,
    normal,
    scale_of,
    smaller_side,
    trainable,
)
from .contract import ALPHA, RANK, BestPair, CoreTraining, Method, Terms, Training, UsualRates
from .peft_form import deft_form

NAME = "deft"
# deft_P, in place of deft_Q, is what ComfyUI's own Train LoRA keeps: P of the projector qr with PEFT's signs.
SUFFIXES = ("deft_Q", "deft_right", "deft_R", "alpha", "deft_P")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: Q [out, r]; right [out, r] or None (the same as Q); R [r, in*] or None (PaRa); s."""

    Q: Tensor
    right: Tensor | None = None
    R: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings of a DEFT training. Source of p_rate: the authors' code trains P with a tenth of R's learning rate."""

    rank: int = entry(RANK, 4)
    alpha: float | None = entry(ALPHA, None)
    projector: str = entry(
        Choice(
            at=WITH_METHOD,
            options=PROJECTORS,
            advanced=True,
            words="How P becomes the projector: qr (orthonormal; best for pictures), relu (PEFT's default), ppt "
            "(P P^T), svd.",
        ),
        "qr",
    )
    identity: bool = entry(
        Either(
            at=WITH_METHOD,
            shown_as="start",
            on="identity",
            off="paper",
            advanced=True,
            words="identity: training starts exactly at the base (PEFT). paper: from small random matrices, so the "
            "base is already changed a little.",
        ),
        True,
    )
    p_rate: float = entry(
        Number(
            shown=100.0,
            step=0.01,
            recorded=ALWAYS,
            words="DEFT: learning rate of P relative to that of R. The authors use 0.1.",
        ),
        1.0,
    )


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a DEFT layer."""
    present = set(suffixes)
    from_training = {"deft_P", "deft_R"} <= present <= {"deft_P", "deft_R", "alpha"}
    return from_training or {"deft_Q", "deft_R"} <= present <= {*SUFFIXES} - {"deft_P"}


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return tensors["deft_Q"].shape[1] if "deft_Q" in tensors else min(tensors["deft_P"].shape)


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 P [out, r] and R [r, in*] for a weight [out, in, ...]; r = min(rank, out).

    P ~ N(0, 0.02^2). identity (PEFT): R = right^T W / s, so the change is zero. Otherwise (paper) R ~ N(0, 0.02^2).
    """
    with torch.no_grad():
        matrix = flat(weight)
        rank = capped(rank, matrix.shape[0])
        P = normal((matrix.shape[0], rank), generator, weight.device)
        _, right = project(P, settings.projector)
        scale = scale_of(settings.alpha, rank)
        R = right.T @ matrix / scale if settings.identity else normal((rank, matrix.shape[1]), generator, weight.device)
    return trainable({"P": P, "R": R})


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save, differentiable in P and R."""
    pairs = project_all([params["P"] for params in layers], settings.projector)
    return [
        Factors(Q, None if right is Q else right, params["R"], scale_of(settings.alpha, Q.shape[1]))
        for params, (Q, right) in zip(layers, pairs, strict=True)
    ]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return fits_matrix(len(factors.Q), None if factors.R is None else factors.R.shape[1], shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form for this weight [out, in, ...]: up = Q [out, r], down = s R - right^T W [r, in*], float32.

    `removal` and `injection` weigh the two terms.
    """
    Q = factors.Q.to(weight.device, torch.float32)
    right = Q if factors.right is None else factors.right.to(weight.device, torch.float32)
    removed = transposed_product(right, flat(weight))
    if factors.R is None:
        return Q, -removal * removed
    # On a GPU each product with 1 would cost as much as one of the large products.
    injected = weighed(weighed(factors.R.to(weight.device, torch.float32), factors.scale), injection)
    return Q, injected - weighed(removed, removal)


def weighed(value: Tensor, weight: float) -> Tensor:
    """The product with a weight; the tensor itself for 1."""
    return value if weight == 1 else weight * value


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32."""
    up, down = to_lora(factors, weight, removal=removal, injection=injection)
    return (up @ (strength * down)).reshape(weight.shape)


def terms(factors: Factors, weight: Tensor) -> Terms:
    """The two terms of the change of this weight."""
    Q, down = to_lora(factors, weight, injection=0.0)
    return Terms(Q, -down, None if factors.R is None else factors.scale * factors.R.to(down))


def extracted(pair: BestPair) -> Factors:
    """The factors that are this change: Q spans its columns, and R = Q^T W' of the tuned weight."""
    Q = (pair.up if pair.left else torch.linalg.qr(pair.up).Q).float()
    return Factors(Q, None, (Q.double().T @ pair.after).float())


def change(factors: Factors) -> LowRank:
    """The change on activations."""
    return LowRank(factors.Q, factors.R, factors.Q if factors.right is None else factors.right, factors.scale)


def forward(
    factors: Factors, op: LayerOp, x: Tensor, y: Tensor, *, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The addition to the layer's output, in the dtype of x.

    x is the layer's input and y its output without bias, y = W x, so that the weight itself is not needed.
    """
    return change(factors).forward(op, x, y, removal=removal, injection=injection)


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix; contiguous, as safetensors wants them."""
    tensors = {"deft_Q": factors.Q.detach().contiguous()}
    if factors.right is not None:
        tensors["deft_right"] = factors.right.detach().contiguous()
    if factors.R is not None:
        tensors["deft_R"] = factors.R.detach().contiguous()
        tensors["alpha"] = alpha_tensor(factors.scale, factors.Q.shape[1])
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError where the shapes do not fit each other."""
    name = "deft_Q" if "deft_Q" in tensors else "deft_P"
    Q, right, R = tensors[name], tensors.get("deft_right"), tensors.get("deft_R")
    if Q.ndim != 2:
        raise ValueError(f"{name} has shape {list(Q.shape)}, but a matrix [out, rank] is needed")
    if name == "deft_P":
        Q = raw_qr(Q)[0]
    if right is not None and right.shape != Q.shape:
        raise ValueError(f"deft_right has shape {list(right.shape)}, but deft_Q has {list(Q.shape)}")
    if R is not None and (R.ndim < 2 or R.shape[0] != Q.shape[1]):
        raise ValueError(f"deft_R has shape {list(R.shape)}, but deft_Q has rank {Q.shape[1]}")
    return Factors(Q, right, None if R is None else R.flatten(1), file_scale(tensors, Q.shape[1]))


# ------------------------------------------------------------------------------------------ ComfyUI's own Train LoRA


def core_init(weight: Tensor, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters that start as the base: P, and R with PEFT's signs, of the projector qr and a scale of 1."""
    params = init(weight, rank, Settings(), generator)
    P, R = params["P"].detach(), params["R"].detach()
    return {"deft_P": P, "deft_R": raw_qr(P)[1][:, None] * R}


def core_factors(params: Mapping[str, Tensor]) -> Factors:
    """The factors that the parameters mean; without an R they only remove."""
    return Factors(raw_qr(params["deft_P"])[0], None, params.get("deft_R"))


def core_params(factors: Factors) -> dict[str, Tensor]:
    """Parameters that mean these factors. Raises ValueError for another projector than qr."""
    if factors.right is not None:
        raise ValueError("its projector is not qr")
    Q = factors.Q.float()
    # qr(c Q) is Q but for signs; c gives P the size that it has at the start of a training.
    P = Q * (INIT_STD * len(Q) ** 0.5)
    if factors.R is None:
        return {"deft_P": P}
    return {"deft_P": P, "deft_R": raw_qr(P)[1][:, None] * (factors.scale * factors.R.float())}


METHOD = Method(
    name=NAME,
    title="DEFT",
    source="arXiv 2509.22793",
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
    halves=("deft_Q", "deft_right", "deft_P", "deft_R"),
    whole=("deft_Q", "deft_R"),
    # ComfyUI's Train LoRA has its own names of layers.
    of_peft={"deft_P": lambda name: not name.startswith("diffusion_model.")},
    terms=terms,
    extracted=extracted,
    peft=deft_form,
    training=Training(
        words="removes a part of each weight's output space and injects a trained update into it; starts as the "
        "identity",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors),
        rate=lambda parameter, small, settings: settings.p_rate if parameter == "P" else 1.0,
        given_rank=smaller_side,
        usual_rates=UsualRates(5e-5, 1e-3, "DEFT's repository for SDXL and OmniGen"),
    ),
    core_training=CoreTraining(core_init, core_factors, core_params),
)
