"""(IA)^3 (arXiv 2205.05638) as LyCORIS has it (modules/ia3.py): W' = diag(1 + w) W, or W diag(1 + w) on inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..host import on_host
from .common import flat, svd
from .contract import Method

NAME = "ia3"
# LyCORIS' own `weight` and `on_input` are renamed by the reader, because every model has tensors of the first name.
SUFFIXES = ("ia3_weight", "ia3_on_input")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: w with a number for each output, or for each input (channel, where there is a kernel)."""

    scale: Tensor
    on_input: bool = False


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is an (IA)^3 layer."""
    return set(suffixes) == set(SUFFIXES)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank 1: one vector for each layer."""
    return 1


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    return len(shape) > 1 and factors.scale.numel() == shape[1 if factors.on_input else 0]


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` are not used.
    """
    base = weight.float()
    sizes = [1] * base.ndim
    sizes[1 if factors.on_input else 0] = -1
    return base * (factors.scale.to(base).reshape(sizes) * strength)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    U, sigma, Vh = on_host(svd, flat(delta(factors, weight)))
    return U * sigma, Vh


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    on_input = factors.scale.new_tensor(float(factors.on_input))
    return {"ia3_weight": factors.scale.detach().contiguous(), "ia3_on_input": on_input}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if on_input is not one number."""
    on_input = tensors["ia3_on_input"]
    if on_input.numel() != 1:
        raise ValueError(f"on_input has shape {list(on_input.shape)}, but one number is needed")
    return Factors(tensors["ia3_weight"], bool(on_input.item()))


METHOD = Method(
    name=NAME,
    title="(IA)^3",
    source="arXiv 2205.05638",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    peft="there is no writer for it",
)
