"""DEFT and PaRa as a ComfyUI weight adapter, and its registration with ComfyUI's own loaders.

The contract with ComfyUI (0.24 to 0.30): `__init__(loaded_keys, weights)` and no other state, because the low-VRAM path
rebuilds adapters from these two; the weight is edited in place, because a slice's return value is dropped. What the
bypass loaders ask for is in bypass.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor

from ..deft_ops import methods
from . import bypass
from .entries import Entry, entry, layer_name
from .trained_layer import to_train


class DeftWeightAdapter(comfy.weight_adapter.WeightAdapterBase):
    """The patch W + strength * sum of the entries' deltas, each delta computed from the weight that comes in.

    `weights` is a tuple of entries. One entry is the ordinary case (ComfyUI applies patches one after the other);
    several are adapters that are to be summed from the same base, as PEFT does.
    """

    name = "deft"
    _multiplier = 1.0
    _bypassed: Any = None

    def __init__(self, loaded_keys: set[str], weights: tuple[Entry, ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    @property
    def multiplier(self) -> float:
        """The strength in ComfyUI's bypass. Its loader sets it, and gets the error for what cannot be bypassed."""
        return self._multiplier

    @multiplier.setter
    def multiplier(self, strength: float) -> None:
        if strength != 0:
            bypass.check(layer_name(self.loaded_keys), self.single_place())
        self._multiplier = strength

    def bypass_forward(self, org_forward: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output with the change added. Raises ValueError, with the layer's name, where it cannot be."""
        if self.multiplier == 0:
            return org_forward(x, *args, **kwargs)
        name = layer_name(self.loaded_keys)
        module = bypass.layer_of(name, org_forward)
        if self._bypassed is None or self._bypassed.module is not module:
            self._bypassed = bypass.bypassed(name, self.single_place(), module)
        return self._bypassed.change(x, org_forward(x, *args, **kwargs), self.multiplier)

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, Tensor],
        alpha: Any = None,
        dora_scale: Any = None,
        loaded_keys: set[str] | None = None,
    ) -> DeftWeightAdapter | None:
        """The adapter of layer `x` of a file, None if it is none of this class; ComfyUI's loader asks every class.

        Layers that ComfyUI has a class for (LoRA, LoHa, LoKr, OFT of outputs, each with companions) are left to it.
        Raises ValueError for PEFT's tensors: their meaning is in a record that this loader is not given.
        """
        if not any(f"{x}.{suffix}" in lora for suffix in methods.OWN_SUFFIXES):  # asked for every weight of the model
            return None
        for suffix, apart in methods.OF_PEFT.items():
            if f"{x}.{suffix}" in lora and apart(x):
                raise ValueError(
                    f"{x}.{suffix} is PEFT's, and what it means is in a record (adapter_config.json, or the file's "
                    "header) that ComfyUI's own loader does not read: use Load Adapter for this file."
                )
        group = {suffix: lora[f"{x}.{suffix}"] for suffix in methods.SUFFIXES if f"{x}.{suffix}" in lora}
        method = methods.find(group)
        if method is None:
            return None
        return cls({f"{x}.{suffix}" for suffix in group}, (entry(method, method.from_tensors(group)),))

    def to_train(self) -> Any:
        """The adapter as a layer that ComfyUI's Train LoRA trains on. Raises ValueError for what it cannot train."""
        return to_train(self.weights)

    def single_place(self) -> tuple[Entry, ...]:
        """The entries, which are all for the same place of the weight."""
        return self.weights

    def calculate_shape(self, key: str) -> None:
        """The weight keeps its shape."""
        return None

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Edit `weight` [out, in, ...] in place and return it. `function` re-orders rows (its own inverse)."""
        base = function(weight.float()).contiguous()  # the weight itself, if it is float32 and in its own order
        pairs, changes = [], []
        for name, values, removal, injection, share in self.weights:
            method = methods.get(name)
            factors, part = method.Factors(*values), strength * share
            try:
                if method.low_rank:
                    up, down = method.to_lora(factors, base, removal=removal, injection=injection)
                    pairs.append((up, down if part == 1 else down.mul_(part)))
                else:
                    changes.append(method.delta(factors, base, strength=part, removal=removal, injection=injection))
            except ValueError as error:  # it may come long after the file was read
                raise ValueError(f"{layer_name(self.loaded_keys)}: {error}") from error
        # All deltas are there before the first is added, and no temporary of the weight's size is made for a pair.
        matrix = base.view(len(base), -1)
        for up, down in pairs:
            matrix.addmm_(up, down)
        for change in changes:
            base += change
        if base is not weight:
            weight.copy_(function(base))
        return weight


# The slice (dim, start, length) that entries are for, and what re-orders its rows; None: all of it, as it is.
WeightSlice = tuple[tuple[int, int, int] | None, Callable[[Tensor], Tensor] | None]


class PlacesWeightAdapter(DeftWeightAdapter):
    """The patch of several slices or row orders of one weight, all computed from the weight that comes in.

    `weights` is a tuple of (place, entries), each what a DeftWeightAdapter has.
    """

    weights: Any

    def __init__(self, loaded_keys: set[str], weights: tuple[tuple[WeightSlice, tuple[Entry, ...]], ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    def single_place(self) -> tuple[Entry, ...]:
        """No single place: raises ValueError, because there are several."""
        raise ValueError(f"{layer_name(self.loaded_keys)} changes several parts of a weight: {bypass.OTHERWISE}.")

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Edit the whole `weight` [out, in, ...] in place and return it."""
        base = weight.to(torch.float32)  # only read: what is changed is its clone
        result = base.clone()
        for (part, reorder), entries in self.weights:
            piece = base if part is None else base.narrow(*part)
            changed = DeftWeightAdapter(self.loaded_keys, entries).calculate_weight(
                piece.clone(), key, strength, 1.0, None, reorder or function
            )
            (result if part is None else result.narrow(*part)).add_(changed - piece)
        return weight.copy_(result)


def places(patch: tuple) -> tuple[tuple[WeightSlice, tuple[Entry, ...]], ...]:
    """The entries by place of one of this pack's patches, ComfyUI's (strength, adapter, ..., offset, function).

    The strength goes into the entries' shares.
    """
    strength, adapter, _, offset, function = patch
    by_place = adapter.weights if isinstance(adapter, PlacesWeightAdapter) else (((offset, function), adapter.weights),)
    return tuple((place, tuple((*item[:4], item[4] * strength) for item in entries)) for place, entries in by_place)


def register() -> None:
    """Let ComfyUI's own LoRA loaders, and all loaders built on them, read native DEFT and PaRa files.

    Done once for a process, at start-up; the environment variable DEFT_REGISTER=0 leaves ComfyUI's list alone.
    """
    adapters = comfy.weight_adapter.adapters
    if os.environ.get("DEFT_REGISTER") != "0" and not any(
        cls.__name__ == DeftWeightAdapter.__name__ for cls in adapters
    ):
        adapters.append(DeftWeightAdapter)
