"""DEFT and PaRa as a ComfyUI weight adapter, and its registration with ComfyUI's own loaders.

The contract with ComfyUI (0.24 to 0.30): `__init__(loaded_keys, weights)` and no other state, because the low-VRAM path
rebuilds adapters from these two; the weight is edited in place, because a slice's return value is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor

from ..deft_ops import methods
from ..deft_ops.methods import deft

# One applied adapter of a layer: Q, right or None, R or None, scale, removal, injection, strength.
Entry = tuple[Tensor, Tensor | None, Tensor | None, float, float, float, float]


class DeftWeightAdapter(comfy.weight_adapter.WeightAdapterBase):
    """W + strength * sum of the entries' deltas, each delta computed from the weight that comes in.

    `weights` is a tuple of entries. One entry is the ordinary case (ComfyUI applies patches one after the other);
    several are adapters that are to be summed from the same base, as PEFT does.
    """

    name = "deft"

    def __init__(self, loaded_keys: set[str], weights: tuple[Entry, ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, Tensor],
        alpha: Any = None,
        dora_scale: Any = None,
        loaded_keys: set[str] | None = None,
    ) -> DeftWeightAdapter | None:
        """ComfyUI's loader asks every adapter class whether layer `x` of a file is its own."""
        if f"{x}.deft_Q" not in lora:
            return None
        group = {suffix: lora[f"{x}.{suffix}"] for suffix in deft.SUFFIXES if f"{x}.{suffix}" in lora}
        return cls({f"{x}.{suffix}" for suffix in group}, (entry(methods.method_of(group).from_tensors(group)),))

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
        base = function(weight.float())
        pairs = []
        for Q, right, R, scale, removal, injection, share in self.weights:
            up, down = deft.to_lora(deft.Factors(Q, right, R, scale), base, removal=removal, injection=injection)
            pairs.append((up, down.mul_(strength * share)))
        if base is weight and weight.is_contiguous():  # float32 and no re-ordering: no temporary of the weight's size
            matrix = weight.view(len(weight), -1)
            for up, down in pairs:
                matrix.addmm_(up, down)
        elif pairs:
            change = sum(torch.mm(up, down) for up, down in pairs)
            weight += function(change.reshape(base.shape)).to(weight.dtype)
        return weight


def entry(factors: deft.Factors, removal: float = 1.0, injection: float = 1.0) -> Entry:
    """One applied adapter of a layer as the plain tuple that ComfyUI can move between devices."""
    return factors.Q, factors.right, factors.R, factors.scale, removal, injection, 1.0


def register() -> None:
    """Let ComfyUI's own LoRA loaders, and all built on them, read native DEFT and PaRa files.

    Done once for a process, at start-up; the environment variable DEFT_REGISTER=0 leaves ComfyUI's list alone.
    """
    adapters = comfy.weight_adapter.adapters
    if os.environ.get("DEFT_REGISTER") != "0" and not any(
        cls.__name__ == DeftWeightAdapter.__name__ for cls in adapters
    ):
        adapters.append(DeftWeightAdapter)
