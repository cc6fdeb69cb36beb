"""Entries of this pack's weight adapters: adapters of a layer as plain tuples."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from ..deft_ops import methods

# One applied adapter of a layer: method, its factors' values, removal, injection, share of the strength. Plain values,
# so that ComfyUI can move the tensors in it between devices.
Entry = tuple[str, tuple[Any, ...], float, float, float]


def entry(method: Any, factors: Any, removal: float = 1.0, injection: float = 1.0) -> Entry:
    """One applied adapter of a layer as the plain tuple that ComfyUI can move between devices."""
    values = tuple(getattr(factors, field.name) for field in fields(factors))
    return method.name, values, removal, injection, 1.0


def layer_name(keys: Collection[str]) -> str:
    """The name in its file of the layer that has these tensors, for a message."""
    key = min(keys, default="A layer")
    suffix = next((suffix for suffix in methods.SUFFIXES if key.endswith(f".{suffix}")), "")
    return key.removesuffix(f".{suffix}")
