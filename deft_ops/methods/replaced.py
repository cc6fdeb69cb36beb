"""A weight or a bias that was trained as a whole: W' = V. PEFT's modules_to_save, and its trained biases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..host import on_host
from .common import svd
from .contract import Method

NAME = "replaced"
SUFFIXES = ("replaced",)


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: the new value V, of the shape of the weight or of the bias."""

    value: Tensor


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a replaced weight or bias."""
    return set(suffixes) == set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The largest rank that the change can have; 1 of a vector."""
    shape = tensors["replaced"].shape
    return min(shape[0], shape[1:].numel()) if len(shape) > 1 else 1


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape, which may be a vector."""
    return tuple(factors.value.shape) == tuple(shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight or vector times the strength, of the same shape, float32.

    `removal` and `injection` are not used. Raises ValueError for a weight of another shape.
    """
    if not fits(factors, tuple(weight.shape)):
        raise ValueError(f"the new value has shape {list(factors.value.shape)}, but the weight {list(weight.shape)}")
    base = weight.float()
    return (factors.value.to(base) - base) * strength


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change of a matrix."""
    U, sigma, Vh = on_host(svd, delta(factors, weight).flatten(1))
    return U * sigma, Vh


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    return {"replaced": factors.value.detach().contiguous()}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError for a single number, which no layer has."""
    value = tensors["replaced"]
    if not value.ndim:
        raise ValueError("replaced is a single number, but a weight or a bias is needed")
    return Factors(value)


METHOD = Method(
    name=NAME,
    title="replaced weights",
    source="PEFT, modules_to_save",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    any_dtype=True,
    peft="there is no writer for it",
)
