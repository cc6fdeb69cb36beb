"""What tests of several files draw, read and compare: random tensors, the headers of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of a private generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(value: Tensor, expected: Tensor) -> float:
    """|value - expected| / |expected|, in float64."""
    return ((value.double() - expected.double()).norm() / expected.double().norm()).item()


def same(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> bool:
    """Whether two states have the same keys and tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def header(file: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())
