"""Hypothesis strategies for what is nearly right: JSON values, damaged objects, tensors and safetensors files."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

SPECIAL_NUMBERS = (0, 1, -1, 2, 0.5, 1e30, 1e38, 1e300, -1e30, 1e-30, 2**31, 2**63, 10**400, float("inf"), float("nan"))
SPECIAL_TEXTS = (
    "",
    "x",
    "none",
    "true",
    "0",
    "nan",
    "(",
    "(a+)+b",
    "[",
    "\ud800",
    "a\nb",
    "\0",
    "../x",
    "ä",
    "x" * 3000,
    "{}",
    "[]",
    "[" * 3000,
)

LEAVES = st.one_of(
    st.none(), st.booleans(), st.sampled_from(SPECIAL_NUMBERS), st.sampled_from(SPECIAL_TEXTS), st.integers()
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(("a", "r", "", "x.y")), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def near(draw: Any, value: Any, values: Any = JSON) -> Any:
    """The value of JSON with none to three places that hold something else, are missing, or are there twice."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, 3)))):
        places = _places(value)
        if not places:
            return draw(values)
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "add")))
        if kind == "replace":
            holder[key] = draw(values)
        elif kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            name = draw(st.sampled_from([*holder, "x", ""]))
            holder[name] = holder.pop(key) if kind == "rename" else draw(values)
        else:
            holder.append(draw(values))
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    places: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        places.append((value, key))
        places += _places(inner)
    return places


def encoded(value: Any) -> bytes:
    """A value as JSON, with what JSON's own rules leave out."""
    return json.dumps(value, ensure_ascii=True).encode()


DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
)
_USUAL = st.sampled_from((torch.float32,) * 8 + DTYPES)
_FILL = st.sampled_from(("random",) * 10 + ("zeros", "large", "huge", "inf", "nan", "small", "whole"))


@st.composite
def tensor(draw: Any, *shapes: tuple[int, ...]) -> Tensor:
    """A tensor of one of these shapes, or near it; of some dtype, of ordinary values or of none that are."""
    shape = list(draw(st.sampled_from(shapes)))
    change = draw(st.sampled_from(("",) * 12 + ("size", "more", "fewer", "empty", "number", "swap")))
    if change == "size" and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from((1, 2, 3, 5, 8, 16, 63, 64)))
    elif change == "more":
        shape.insert(draw(st.integers(0, len(shape))), draw(st.sampled_from((1, 1, 2, 3))))
    elif change == "fewer" and shape:
        del shape[draw(st.integers(0, len(shape) - 1))]
    elif change == "empty" and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = 0
    elif change == "number":
        shape = []
    elif change == "swap":
        shape.reverse()
    return _filled(shape, draw(_FILL), draw(_USUAL))


_SOURCE = torch.randn(70_000, generator=torch.Generator().manual_seed(0)) * 0.1


def _filled(shape: list[int], fill: str, dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    values = _SOURCE[:count].clone().reshape(shape) if count <= len(_SOURCE) else torch.ones(shape)
    factor = {"zeros": 0.0, "large": 1e10, "huge": 3e38, "small": 1e-30}.get(fill, 1.0)
    values = values * factor
    if fill == "whole":
        values = torch.ones(shape)
    elif fill in ("inf", "nan") and count:
        values.view(-1)[0] = float(fill)
    return values.to(dtype)


METADATA_VALUES = st.one_of(st.sampled_from(SPECIAL_TEXTS), JSON.map(lambda value: json.dumps(value)))


def safetensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file. Texts that UTF-8 cannot hold become others."""
    clean = {_utf8(key): _utf8(text) for key, text in (metadata or {}).items()}
    return save({_utf8(key): value.contiguous().clone() for key, value in tensors.items()}, clean)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
