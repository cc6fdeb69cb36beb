"""The methods. Each is one module of pure functions of the same shape; a new one is one file and one line here."""

from __future__ import annotations

import functools
from collections.abc import Collection
from types import ModuleType

from . import (
    deft,
    dora,
    dreambooth,
    ia3,
    loha,
    lokr,
    lora,
    oft,
    para,
    peft_tuner,
    replaced,
    svdiff,
    tlora,
)
from .common import move

__all__ = ["METHODS", "TRAINABLE", "SUFFIXES", "get", "trainable", "find", "method_of", "move"]

_MODULES = (
    deft,
    para,
    lora,
    svdiff,
    dreambooth,
    dora,
    oft,
    loha,
    lokr,
    replaced,
    ia3,
    tlora,
    peft_tuner,
)
METHODS: dict[str, ModuleType] = {module.NAME: module for module in _MODULES}

# Those that the trainer can make; the others are read and applied.
TRAINABLE: tuple[str, ...] = tuple(name for name, module in METHODS.items() if hasattr(module, "init"))

SUFFIXES: tuple[str, ...] = tuple(dict.fromkeys(suffix for module in METHODS.values() for suffix in module.SUFFIXES))


def get(name: str) -> ModuleType:
    """The method of this name. Raises ValueError that lists the known ones."""
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def trainable(name: str) -> ModuleType:
    """The method of this name, which can be trained. Raises ValueError that lists those that can."""
    if name not in TRAINABLE:
        raise ValueError(f"Unknown method {name!r}: choose one of {', '.join(TRAINABLE)}.")
    return METHODS[name]


def find(suffixes: Collection[str]) -> ModuleType | None:
    """The method that claims a layer with these file suffixes, or None."""
    return _find(frozenset(suffixes))


@functools.cache  # an adapter has hundreds of layers, and a handful of kinds
def _find(suffixes: frozenset[str]) -> ModuleType | None:
    return next((module for module in METHODS.values() if module.claims(suffixes)), None)


def method_of(suffixes: Collection[str]) -> ModuleType:
    """The method that claims a layer with these file suffixes. Raises ValueError if none does."""
    module = find(suffixes)
    if module is None:
        raise ValueError(f"No method owns a layer with {', '.join(sorted(suffixes))}.")
    return module
