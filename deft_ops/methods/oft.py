"""OFT in PEFT's form (arXiv 2306.07280, 2506.19847): W' = W diag(R_1, ..., R_b), rotations R of the inputs' blocks.

The reader turns PEFT's skew-symmetric entries into the rotations (see files), so that nothing depends on its settings.
LyCORIS's and kohya's OFT rotates outputs and is left to ComfyUI's own loader.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host import on_host
from .common import flat, svd

NAME = "oft"
SUFFIXES = ("oft_rotation",)
OPTIONS: tuple[str, ...] = ()
LOW_RANK = False


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: the rotations [blocks, k, k] of in* = blocks * k inputs; one block serves all of them."""

    rotation: Tensor


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is an OFT layer of PEFT's kind."""
    return set(suffixes) == set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The size k of a block."""
    return tensors["oft_rotation"].shape[1]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    blocks, size, _ = factors.rotation.shape
    width = math.prod(shape[1:])
    return len(shape) > 1 and width % size == 0 and blocks in (1, width // size)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """strength times the change of a weight [out, in, ...], of the same shape, float32.

    `removal` and `injection` mean nothing.
    """
    matrix = flat(weight)
    rotation = factors.rotation.to(matrix)
    pieces = matrix.reshape(len(matrix), -1, rotation.shape[1])
    turned = torch.einsum("obi,bij->obj", pieces, rotation.expand(pieces.shape[1], -1, -1))
    return ((turned - pieces) * strength).reshape(weight.shape)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    U, sigma, Vh = on_host(svd, delta(factors, weight).flatten(1))
    return U * sigma, Vh


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    return {"oft_rotation": factors.rotation.detach().contiguous()}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if the rotations are not square."""
    rotation = tensors["oft_rotation"]
    if rotation.ndim != 3 or rotation.shape[1] != rotation.shape[2]:
        raise ValueError(f"oft_rotation has shape {list(rotation.shape)}, but rotations [blocks, k, k] are needed")
    return Factors(rotation)
