"""LoKr of LyCORIS (arXiv 2212.10650): delta(W) = s (w1 kron w2), each whole or a product, w2 in Tucker form too.

Read is only what ComfyUI's own class does not compute as LyCORIS does: the Tucker form of convolutions (its issue
11245), and `dora_scale`, where it takes the norm of W for output rows and LyCORIS the merged weight's. PEFT's LoKr has
the same form, its scale in w1 or w1_a. Trained layers have w1 whole, and neither; they are left to ComfyUI's class,
and written for PEFT like others.

Training starts as LyCORIS does (modules/lokr.py): w1 Kaiming uniform, w2 or its second factor zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..changes import Kronecker
from ..settings import WITH_METHOD, Number, entry
from .common import alpha_of, alpha_tensor, capped, file_scale, flat, scale_of, trainable
from .contract import ALPHA, RANK, Method, Training, UsualRates
from .factored import (
    exact_pair,
    fits_magnitude,
    fits_weight,
    kaiming,
    magnitude_of,
    product,
    product_shape,
    shapes_of,
    weighed,
)
from .peft_form import alpha_number, config_of, module_pattern, others

NAME = "lokr"
_WHOLE = ("lokr_w1", "lokr_w2")
_FACTORS = ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")
_CORE = "lokr_t2"
SUFFIXES = (*_WHOLE, *_FACTORS, _CORE, "dora_scale", "alpha")


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: w1 and w2 whole or their factors (t2: w2's Tucker core), the scale, DoRA's magnitude."""

    w1: Tensor | None
    w2: Tensor | None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    scale: float = 1.0
    magnitude: Tensor | None = None


@dataclass(frozen=True)
class Settings:
    """Settings of a LoKr training."""

    rank: int = entry(RANK, 4)
    alpha: float | None = entry(ALPHA, None)
    factor: int = entry(
        Number(
            at=WITH_METHOD,
            low=-1,
            shown=1024,
            advanced=True,
            words="Size of the smaller of the two matrices that make up a layer's change; -1: as "
            "large as possible, which makes the smallest file.",
        ),
        -1,
    )


def claims(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a LoKr in Tucker form or with a DoRA scale."""
    return not {_CORE, "dora_scale"}.isdisjoint(suffixes) and is_complete(suffixes)


def is_complete(suffixes: Collection[str]) -> bool:
    """Whether a layer with these suffixes is a LoKr in any form."""
    present = set(suffixes)
    if not present <= set(SUFFIXES):
        return False
    for whole, pair in ((_WHOLE[0], set(_FACTORS[:2])), (_WHOLE[1], set(_FACTORS[2:]))):
        if (whole in present) == bool(present & pair) or present & pair not in (set(), pair):
            return False
    return _CORE not in present or _WHOLE[1] not in present


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank of a layer's file entries; without any product that of w2."""
    name = next((name for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors), None)
    return tensors[name].shape[0] if name else min(tensors["lokr_w2"].flatten(1).shape)


def split(size: int, factor: int = -1) -> tuple[int, int]:
    """Two sizes m <= n with m n = size: m is `factor`, or the largest divisor up to it; -1: as near to n as there is.

    Source: LyCORIS, functional/general.py, factorization.
    """
    limit = size if factor < 1 else factor
    if size % limit == 0 and factor > 0:
        return min(limit, size // limit), max(limit, size // limit)
    smaller = max(m for m in range(1, math.isqrt(size) + 1) if size % m == 0 and m <= limit)
    return smaller, size // smaller


def init(weight: Tensor, rank: int, settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Trainable float32 w1 [l, m] and w2 [k, n, ...] or w2_a [k, r] w2_b [r, n*], for out = l k and in = m n; delta 0.

    l <= k and m <= n come from `split`. w2 is whole where the rank is half of the larger of k and n, or more, as
    LyCORIS has it.
    """
    (left, right), (inner, columns) = split(len(weight), settings.factor), split(weight.shape[1], settings.factor)
    kernel, device = tuple(weight.shape[2:]), weight.device
    rank = capped(rank, max(right, columns))
    params = {"w1": kaiming((left, inner), generator, device)}
    if 2 * rank >= max(right, columns):
        # ComfyUI's own class takes four dimensions for those of a 2-D convolution, and any others for a matrix.
        shape = (columns, *kernel) if len(kernel) == 2 else (columns * math.prod(kernel),)
        params["w2"] = torch.zeros(right, *shape, device=device)
    else:
        params["w2_a"] = kaiming((right, rank), generator, device)
        params["w2_b"] = torch.zeros(rank, columns * math.prod(kernel), device=device)
    return trainable(params)


def factors_of(layers: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Factors]:
    """The factors of many layers, to apply and save; a whole w2 has the scale 1."""
    return [
        Factors(one["w1"], one["w2"])
        if "w2" in one
        else Factors(
            one["w1"], None, w2_a=one["w2_a"], w2_b=one["w2_b"], scale=scale_of(settings.alpha, len(one["w2_b"]))
        )
        for one in layers
    ]


def change(factors: Factors) -> Kronecker:
    """The change on activations, for the factors that `init` makes: w1 whole, no Tucker core, no norms."""
    assert factors.w1 is not None and factors.t2 is None and factors.magnitude is None
    whole = None if factors.w2 is None else factors.w2.flatten(1)
    return Kronecker(factors.w1, whole, factors.w2_a, factors.w2_b, factors.scale)


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight of this shape."""
    left = _shape(factors.w1, factors.w1_a, factors.w1_b, None)
    right = _shape(factors.w2, factors.w2_a, factors.w2_b, factors.t2)
    if len(right) == 2 and right[1] % math.prod(shape[2:]):
        return False  # w2 holds the kernel, in its columns
    change = (left[0] * right[0], left[1] * right[1], *right[2:])
    return fits_weight(change, shape) and fits_magnitude(factors.magnitude, shape)


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] times the strength, of the same shape, float32.

    `removal` and `injection` are not used.
    """
    left = _matrix(weight, factors.w1, factors.w1_a, factors.w1_b, None)
    right = _matrix(weight, factors.w2, factors.w2_a, factors.w2_b, factors.t2)
    # A kernel is the last of the columns, so that it is in its place in the product of the matrices, too.
    return weighed(torch.kron(left * factors.scale, right), weight, factors.magnitude, strength)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    return exact_pair(delta(factors, weight))


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's file entries, by suffix."""
    values = (
        factors.w1,
        factors.w2,
        factors.w1_a,
        factors.w1_b,
        factors.w2_a,
        factors.w2_b,
        factors.t2,
        factors.magnitude,
    )
    named = zip((*_WHOLE, *_FACTORS, _CORE, "dora_scale"), values, strict=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in named if tensor is not None}
    return tensors | {"alpha": alpha_tensor(factors.scale, rank(tensors))}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors of a layer's file entries. Raises ValueError if their shapes do not go together.

    The scale is alpha / rank, and 1 where w1 and w2 are whole, as LyCORIS has it.
    """
    w1, w2 = (tensors.get(name) for name in _WHOLE)
    w1_a, w1_b, w2_a, w2_b = (tensors.get(name) for name in _FACTORS)
    t2 = tensors.get(_CORE)
    left = _shape(w1, w1_a, w1_b, None)
    _shape(w2, w2_a, w2_b, t2)
    if math.prod(left[2:]) != 1:
        raise ValueError(f"lokr_w1 has the shape {list(left)}, but a matrix is needed")
    alpha_of(tensors)  # one number, also where it counts for nothing
    scale = 1.0 if w1 is not None and w2 is not None else file_scale(tensors, rank(tensors))
    return Factors(w1, w2, w1_a, w1_b, w2_a, w2_b, t2, scale, magnitude_of(tensors))


def _matrix(
    weight: Tensor, whole: Tensor | None, rows: Tensor | None, columns: Tensor | None, core: Tensor | None
) -> Tensor:
    """The factor w1 or w2 as a float32 matrix on the weight's device."""
    if whole is not None:
        return flat(whole.to(weight.device))
    assert rows is not None and columns is not None
    core = None if core is None else core.to(weight.device)
    return product(rows.to(weight.device), columns.to(weight.device), core)


def _shape(whole: Tensor | None, rows: Tensor | None, columns: Tensor | None, core: Tensor | None) -> tuple[int, ...]:
    """The shape of w1 or w2. Raises ValueError if it has none."""
    if whole is None:
        assert rows is not None and columns is not None
        return product_shape(rows, columns, core)
    if whole.ndim < 2:
        raise ValueError(f"a factor has the shape {shapes_of(whole)}, but a matrix is needed")
    return tuple(whole.shape)


# --------------------------------------------------------------------------------------------------------- PEFT's form

Sizes = tuple[int, int]


def pefts_split(size: int, factor: int) -> Sizes:
    """The two sizes that PEFT's decompose_factor gives (peft/tuners/lokr/layer.py, factorization).

    Unlike those of `split`, the first is the larger one where a factor above the root divides the size.
    """
    return (factor, size // factor) if factor > 0 and size % factor == 0 else split(size, factor)


def peft_form(
    factors: Mapping[str, Factors], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's form of the factors by layer name, with the layers' module names and the adapter's name in messages.

    w1 is whole; w2 is whole where the rank is half of its larger side or more, or where it is in Tucker form, else a
    product. A layer without a shape is taken for a linear one. Raises ValueError for DoRA's norms, for convolutions
    other than 2-D ones, and for factors whose sizes no single decompose_factor gives.
    """
    tensors: dict[str, Tensor] = {}
    sizes: dict[str, tuple[Sizes, Sizes]] = {}
    ranks: dict[str, int | None] = {}  # None: w2 is whole
    like = torch.empty(0)
    for name, one in factors.items():
        kernel = shapes.get(name, () if one.w2 is None else tuple(one.w2.shape))[2:]
        if name in shapes and not fits(one, shapes[name]):
            raise ValueError(
                f"{source} cannot be written for PEFT: layer {name} is not for the model's weight of "
                f"{list(shapes[name])}: connect the model that it was trained on."
            )
        if one.magnitude is not None:
            raise ValueError(
                f"{source} cannot be written for PEFT: layer {name} has the norms of DoRA (dora_scale), which PEFT's "
                "LoKr does not have."
            )
        if len(kernel) not in (0, 2):
            # For one dimension PEFT takes the Kronecker product of a matrix and a w2 of three, which mixes the axes.
            raise ValueError(
                f"{source} cannot be written for PEFT: layer {name} is a {len(kernel)}-D convolution, and PEFT's LoKr "
                "is the same on linear layers and 2-D convolutions only."
            )
        w1 = _matrix(like, one.w1, one.w1_a, one.w1_b, None)
        w2 = _matrix(like, one.w2, one.w2_a, one.w2_b, one.t2)
        columns = w2.shape[1] // math.prod(kernel)
        sizes[name] = (len(w1), len(w2)), (w1.shape[1], columns)
        parts = {"w1": w1, "w2": w2.reshape(len(w2), columns, *kernel)}
        ranks[name] = None
        pair = None if one.w2_a is None or one.w2_b is None or one.t2 is not None else (one.w2_a, one.w2_b)
        if pair is not None and 2 * len(pair[1]) < max(len(w2), columns):
            ranks[name] = len(pair[1])
            parts = {"w1": w1, "w2_a": flat(pair[0]), "w2_b": flat(pair[1])}
        tensors |= {f"{names[name]}.lokr_{part}": tensor.contiguous() for part, tensor in parts.items()}
    least = {name: -(-max(rows[1], columns[1]) // 2) for name, (rows, columns) in sizes.items()}  # of a whole w2
    usual = max((rank for rank in ranks.values() if rank), default=max(least.values()))
    patterns = {name: module_pattern(names[name]) for name in factors}
    chosen = {patterns[name]: rank or max(usual, least[name]) for name, rank in ranks.items()}
    alphas = {patterns[name]: alpha_number(one.scale, chosen[patterns[name]]) for name, one in factors.items()}
    alpha = max(alphas.values())
    config = {
        **config_of("LOKR", usual),
        "alpha": alpha,
        "rank_pattern": others(chosen, usual),
        "alpha_pattern": others(alphas, alpha),
        "decompose_both": False,
        "decompose_factor": _pefts_factor(sizes, source),
        "init_weights": True,
        "module_dropout": 0.0,
        "rank_dropout": 0.0,
        "rank_dropout_scale": False,
        "use_effective_conv2d": False,
    }
    return tensors, config


def _pefts_factor(sizes: Mapping[str, tuple[Sizes, Sizes]], source: str) -> int:
    """The decompose_factor with which PEFT splits rows and columns of all layers as they are; -1 where that fits.

    Raises ValueError if there is none, which names the first layer that the best one does not fit.
    """
    first: dict[Sizes, str] = {}  # the layer that has them first
    for name, pairs in sizes.items():
        for pair in pairs:
            first.setdefault(pair, name)
    # Above all roots and first sizes, a factor is -1 or gives a first size that no layer has.
    limit = max(max(pair[0], math.isqrt(math.prod(pair))) for pair in first)
    failed: list[int] = []
    for factor in (-1, *range(1, limit + 1)):
        places = (at for at, pair in enumerate(first) if pefts_split(math.prod(pair), factor) != pair)
        failed.append(next(places, len(first)))
        if failed[-1] == len(first):
            return factor
    pair = list(first)[max(failed)]
    raise ValueError(
        f"{source} cannot be written for PEFT: its layers split their sizes, such as {math.prod(pair)} into {pair[0]} "
        f"and {pair[1]} at {first[pair]}, as no single decompose_factor of PEFT does. Choose the native format, or "
        "train it with the factor -1."
    )


METHOD = Method(
    name=NAME,
    title="LoKr",
    source="arXiv 2212.10650",
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
    of_core=is_complete,
    marks=("lokr_w",),
    peft=peft_form,
    peft_convolutions=True,
    training=Training(
        words="builds each change from a small and a medium-sized matrix: files about an eighth as large as lora's",
        settings=Settings,
        init=init,
        factors_of=factors_of,
        change=lambda factors, weight, kept: change(factors),
        usual_rates=UsualRates(3e-4, 1e-3, "PEFT's picture benchmark"),
    ),
)
