"""The methods. Each is one module that ends with its record (see `contract.py`); a new one is one file and one line."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

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
from .contract import CoreTraining, Method, Training

__all__ = [
    "BY_PEFT",
    "METHODS",
    "PLAIN_PAIR",
    "OF_PEFT",
    "OWN_SUFFIXES",
    "SUFFIXES",
    "TRAINABLE",
    "CoreTraining",
    "Method",
    "Training",
    "find",
    "find_of_core",
    "get",
    "method_of",
    "move",
    "training_of",
]

_RECORDS: tuple[Method[Any], ...] = (
    deft.METHOD,
    para.METHOD,
    lora.METHOD,
    svdiff.METHOD,
    dreambooth.METHOD,
    dora.METHOD,
    oft.METHOD,
    loha.METHOD,
    lokr.METHOD,
    replaced.METHOD,
    ia3.METHOD,
    tlora.METHOD,
    peft_tuner.METHOD,
)
METHODS: dict[str, Method[Any]] = {record.name: record for record in _RECORDS}

# What the plain patches of ComfyUI's own LoRA class are: up, down, a scale, and nothing else.
PLAIN_PAIR = lora.METHOD
# Layers that PEFT itself computes.
BY_PEFT = peft_tuner.METHOD

# Those that the trainer can make; the others are read and applied.
TRAINABLE: tuple[str, ...] = tuple(name for name, record in METHODS.items() if record.training is not None)

SUFFIXES: tuple[str, ...] = tuple(dict.fromkeys(suffix for record in METHODS.values() for suffix in record.suffixes))
# What no class of ComfyUI's own reads.
OWN_SUFFIXES: tuple[str, ...] = tuple(
    suffix for suffix in SUFFIXES if not any(suffix in record.core_suffixes for record in METHODS.values())
)
# What PEFT writes too: whether a layer's name shows that it did.
OF_PEFT = {suffix: apart for record in METHODS.values() for suffix, apart in record.of_peft.items()}


def get(name: str) -> Method[Any]:
    """The method of this name. Raises ValueError that lists the known ones."""
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def training_of(name: str) -> Training[Any, Any, Any]:
    """The training of the method of this name. Raises ValueError that lists those that have one."""
    record = METHODS.get(name)
    if record is None or record.training is None:
        raise ValueError(f"Unknown method {name!r}: choose one of {', '.join(TRAINABLE)}.")
    return record.training


def find(suffixes: Collection[str]) -> Method[Any] | None:
    """The method that claims a layer with these file suffixes, or None."""
    return _find(frozenset(suffixes))


@functools.cache  # an adapter has hundreds of layers, and a handful of kinds
def _find(suffixes: frozenset[str]) -> Method[Any] | None:
    return next((record for record in METHODS.values() if record.claims(suffixes)), None)


@functools.cache
def _find_of_core(suffixes: frozenset[str]) -> Method[Any] | None:
    return next((record for record in METHODS.values() if record.of_core(suffixes)), None)


def find_of_core(suffixes: Collection[str]) -> Method[Any] | None:
    """The method of a layer with these file suffixes that ComfyUI's own class applies, or None."""
    return _find_of_core(frozenset(suffixes))


def method_of(suffixes: Collection[str]) -> Method[Any]:
    """The method that claims a layer with these file suffixes. Raises ValueError if none does."""
    record = find(suffixes)
    if record is None:
        raise ValueError(f"No method has layers with the tensors {', '.join(sorted(suffixes))}.")
    return record
