"""The target of a layer name: a weight of the model, or a part of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

# A weight's key in the model, or (key, (dim, start, length)[, function]) for a slice of a fused weight.
Target = str | tuple


def target_key(target: Target) -> str:
    """The model's key of a target, slice or not."""
    return target if isinstance(target, str) else target[0]


def target_slice(target: Target) -> tuple[int, int, int] | None:
    """The slice (dim, start, length) of a target that is a part of a fused weight."""
    return None if isinstance(target, str) or len(target) < 2 else target[1]


def target_function(target: Target) -> Callable[[Tensor], Tensor] | None:
    """The function that re-orders the rows of a target whose order differs from the file's; it is its own inverse."""
    return None if isinstance(target, str) or len(target) < 3 else target[2]


def with_key(target: Target, key: str) -> Target:
    """The same target of another key."""
    return key if isinstance(target, str) else (key, *target[1:])


def bias_target(target: Target) -> Target:
    """The bias that belongs to a weight or to a slice of its rows."""
    key = target_key(target).removesuffix("weight") + "bias"
    part = target_slice(target)
    return key if part is not None and part[0] != 0 else with_key(target, key)


def describe(names: Mapping[str, Any], count: int = 2) -> str:
    """A few layer names, for a message."""
    some = list(names)[:count]
    return ", ".join(some) + (", ..." if len(names) > count else "")


def part_of(weight: Tensor, target: Target) -> Tensor:
    """The part of a whole weight that a target means, in the target's row order."""
    part, reorder = target_slice(target), target_function(target)
    piece = weight if part is None else weight.narrow(*part)
    return piece if reorder is None else reorder(piece)
