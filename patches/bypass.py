"""DEFT and PaRa in ComfyUI's own bypass loaders: the change is added to a layer's output.

Those loaders (0.24 to 0.30) set attributes such as `multiplier` on an adapter when they put it on a layer; the layer's
calls then go to `bypass_forward`. Slices of fused weights they skip, with a warning, before any adapter could know
of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..deft_ops import methods
from ..deft_ops.layer_ops import LayerOp, LinearOp, op_of
from ..models.layers import bias_of
from .entries import Entry

OTHERWISE = "load the file without bypass"


class Bypassed:
    """One adapter on one layer: where the layer's operation is known, and the factors lie where its inputs are."""

    def __init__(self, name: str, module: Any, entries: tuple[Entry, ...]) -> None:
        self.module = module
        try:
            self.op = op_of(module)
        except ValueError as error:
            raise ValueError(f"{name}: {error} Or {OTHERWISE}.") from error
        self._entries = entries
        self._factors: dict[tuple[torch.device, torch.dtype, bool], list[Any]] = {}
        shape = _shape(module, self.op)
        for method, values, *_ in entries:
            if not methods.get(method).fits(methods.get(method).Factors(*values), shape):
                raise ValueError(f"{name} is not for a weight of {list(shape)}: the file belongs to another model.")

    def change(self, x: Tensor, output: Tensor, strength: float) -> Tensor:
        """The output with all entries' changes, each computed from W x as the layer has it."""
        channel = self.op.channel(output)
        bias = bias_of(self.module, output, channel)
        plain = output if bias is None else output - bias
        for (method, _, removal, injection, share), factors in zip(self._entries, self.factors(x), strict=True):
            part = strength * share
            forward = methods.get(method).forward
            assert forward is not None
            added = forward(factors, self.op, x, plain, removal=part * removal, injection=part * injection)
            output = output + added.to(output)
        return output

    def factors(self, x: Tensor) -> list[Any]:
        """The factors on the device and in the dtype of x."""
        place = (x.device, x.dtype, torch.is_inference_mode_enabled())
        if place not in self._factors:
            self._factors[place] = [
                methods.get(method).Factors(*(_moved(value, x) for value in values))
                for method, values, *_ in self._entries
            ]
        return self._factors[place]


def _moved(value: Any, x: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    moved = value.to(x)
    # What nodes have read are inference tensors, which autograd does not take.
    return moved if torch.is_inference_mode_enabled() else moved.clone()


def _shape(module: Any, op: LayerOp) -> tuple[int, ...]:
    """The shape of a layer's weight, which a quantised layer keeps in another form."""
    if isinstance(op, LinearOp):
        return module.out_features, module.in_features
    return module.out_channels, module.in_channels, *op.kernel_size


def check(name: str, entries: tuple[Entry, ...]) -> None:
    """Raise ValueError, with the layer's name, for what has no form on activations."""
    for method, *_ in entries:
        if methods.get(method).forward is None:
            raise ValueError(
                f"{method} layers such as {name} need the weight, and bypass does not have it: {OTHERWISE}."
            )


def layer_of(name: str, forward: Callable[..., Tensor]) -> Any:
    """The layer that `forward` belongs to; `name` is its name in the file. Raises ValueError if it is not clear."""
    owner = getattr(forward, "__self__", None)
    module = getattr(owner, "module", owner)  # another of ComfyUI's hooks may sit between
    if module is None:
        raise ValueError(f"Another extension has replaced the layer of {name}: {OTHERWISE}.")
    return module


def bypassed(name: str, entries: tuple[Entry, ...], module: Any) -> Bypassed:
    """The adapter on a layer. Raises ValueError for layers that it is not for."""
    check(name, entries)
    return Bypassed(name, module, entries)
