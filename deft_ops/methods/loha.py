"""LoHa of LyCORIS (arXiv 2108.06098): delta(W) = s (w1_a w1_b) * (w2_a w2_b), both products in Tucker form or not.

Only what ComfyUI's own class does not compute as LyCORIS does: the Tucker form, of which it knows 2-D kernels, and
`dora_scale`, where it takes the norm of W for output rows and LyCORIS the merged weight's. PEFT's LoHa has the same
form, its scale in w1_a.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from .common import alpha_tensor, file_scale
from .contract import Method
from .factored import (
    exact_pair,
    fits_magnitude,
    fits_weight,
    magnitude_of,
    product,
    product_shape,
    shapes_of,
    weighed,
)

NAME = "loha"
_PLAIN = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_CORES = ("hada_t1", "hada_t2")
SUFFIXES = (*_PLAIN, *_CORES, "dora_scale", "alpha")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: both products' factors and cores (None: plain), the scale, DoRA's magnitude (None: no)."""

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    scale: float = 1.0
    magnitude: Tensor | None = None


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a LoHa in Tucker form or with a DoRA scale."""
    present = set(suffixes)
    if not set(_PLAIN) <= present <= set(SUFFIXES):
        return False
    cores = len(present & set(_CORES))
    return cores == 2 or (cores == 0 and "dora_scale" in present)


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries."""
    return tensors["hada_w1_b"].shape[0]


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    change = product_shape(factors.w1_a, factors.w1_b, factors.t1)
    return fits_weight(change, shape) and fits_magnitude(factors.magnitude, shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` are not used.
    """
    pairs = ((factors.w1_a, factors.w1_b, factors.t1), (factors.w2_a, factors.w2_b, factors.t2))
    first, second = (
        product(rows.to(weight.device), columns.to(weight.device), None if core is None else core.to(weight.device))
        for rows, columns, core in pairs
    )
    return weighed(first.mul_(factors.scale).mul_(second), weight, factors.magnitude, strength)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    return exact_pair(delta(factors, weight))


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    values = (factors.w1_a, factors.w1_b, factors.w2_a, factors.w2_b, factors.t1, factors.t2, factors.magnitude)
    named = zip((*_PLAIN, *_CORES, "dora_scale"), values, strict=True)
    return {name: tensor.detach().contiguous() for name, tensor in named if tensor is not None} | {
        "alpha": alpha_tensor(factors.scale, factors.w1_b.shape[0])
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if their shapes do not go together."""
    w1_a, w1_b, w2_a, w2_b = (tensors[name] for name in _PLAIN)
    t1, t2 = (tensors.get(name) for name in _CORES)
    first, second = product_shape(w1_a, w1_b, t1), product_shape(w2_a, w2_b, t2)
    if first != second:
        raise ValueError(f"the two halves are for {list(first)} and {list(second)} ({shapes_of(w1_a, w2_a)})")
    scale = file_scale(tensors, w1_b.shape[0])
    return Factors(w1_a, w1_b, w2_a, w2_b, t1, t2, scale, magnitude_of(tensors))


METHOD = Method(
    name=NAME,
    title="LoHa",
    source="arXiv 2108.06098",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    has_rank=True,
    core_suffixes=SUFFIXES,
    marks=("hada_w",),
    peft="there is no writer for it",
)
