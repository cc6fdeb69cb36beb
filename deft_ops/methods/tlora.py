"""T-LoRA (arXiv 2507.05964) as LyCORIS saves it (modules/tlora.py): W' = W + s (P diag(l) Q - P0 diag(l0) Q0).

P0 diag(l0) Q0 is the start, some singular triplets of the base, and is not in the file: the largest, the smallest or
the middle ones; l, which training moves little, shows which. Training and its sampler skip ranks by timestep,
here all of them are at work. The authors' own files have the start; the reader makes a LoRA of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host import on_host
from .common import alpha_tensor, file_scale, fits_matrix, flat, svd
from .contract import Method

NAME = "tlora"
# LyCORIS' own names, q_layer.weight and the like, are also in the authors' files, so the reader changes them.
SUFFIXES = ("tlora_p", "tlora_lambda", "tlora_q", "alpha")

_UNLIKE = 0.5  # of the norm of the largest triplets: more is no training


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: P [out, r], l [r], Q [r, in*] and the scale s."""

    P: Tensor
    values: Tensor
    Q: Tensor
    scale: float = 1.0


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a T-LoRA layer of LyCORIS."""
    return set(SUFFIXES[:3]) <= set(suffixes) <= set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return tensors["tlora_q"].shape[0]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape. Kernels are of size 1: LyCORIS has no weight for others."""
    return fits_matrix(len(factors.P), factors.Q.shape[1], shape) and math.prod(shape[2:]) == 1


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` are not used. Raises ValueError if the adapter was not started from this weight.
    """
    up, down = to_lora(factors, weight)
    return (up @ down * strength).reshape(weight.shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of rank 2 r. Raises ValueError as `delta` does."""
    matrix = flat(weight)
    U, sigma, Vh = on_host(svd, matrix, slow="Singular value decompositions of the base")
    P, values, Q = factors.P.to(matrix), factors.values.to(matrix), factors.Q.to(matrix)
    r, k = len(values), len(sigma)
    # The largest, the smallest, and the middle ones.
    starts = [slice(first, first + r) for first in dict.fromkeys((0, k - r, (k - r) // 2))]
    start = min(starts, key=lambda part: float((sigma[part] - values).norm()))
    up, down = torch.cat([P * values, -U[:, start] * sigma[start]], dim=1), torch.cat([Q, Vh[start]])
    if float((up @ down).norm()) > _UNLIKE * float(sigma[:r].norm()):
        raise ValueError(
            "A T-LoRA layer of the adapter did not start from this weight, and its file does not have the start: load "
            "the base model that it was trained on."
        )
    return factors.scale * up, down


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    tensors = {"tlora_p": factors.P, "tlora_lambda": factors.values, "tlora_q": factors.Q}
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()} | {
        "alpha": alpha_tensor(factors.scale, len(factors.Q))
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries; convolution factors are flattened. Raises ValueError if shapes differ."""
    P, values, Q = (tensors[name] for name in SUFFIXES[:3])
    if P.ndim < 2 or Q.ndim < 2 or not P.flatten(1).shape[1] == values.numel() == len(Q):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (P, values, Q))
        raise ValueError(f"p_layer, lambda_layer and q_layer have the shapes {shapes}, which do not fit together")
    return Factors(P.flatten(1), values.reshape(-1), Q.flatten(1), file_scale(tensors, len(Q)))


METHOD = Method(
    name=NAME,
    title="T-LoRA",
    source="arXiv 2507.05964",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    peft="PEFT has no such layer",
)
