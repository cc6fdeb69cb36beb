"""Adapters on the activations of layers instead of their weights: y + t (delta W) x, without touching W.

For quantised bases: patching rounds the changed weight to a few bits again and may lose a small change; this does not.
ComfyUI's own bypass leaves out slices of fused weights, keeps only the last of several loaders and takes the bias for a
part of W x. Here all of a model's adapters are forward hooks of one injection.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
import torch
from comfy.patcher_extension import PatcherInjection
from torch import Tensor

from ..deft_ops import methods
from ..deft_ops.layer_ops import LayerOp, LinearOp, op_of
from .matching import Layer
from .names import target_function, target_key, target_slice

_KEY = "deft_activations"


@dataclass(frozen=True)
class Item:
    """One adapter layer at work: which, how strongly, and whether it sees W x or what was changed before it."""

    layer: Layer
    strength: float
    removal: float
    injection: float
    from_base: bool


class Activations(PatcherInjection):
    """The hooks of a model, by weight key in the order of application."""

    def __init__(self, items: dict[str, tuple[Item, ...]]) -> None:
        super().__init__(self.attach, self.detach)
        self.items = items
        self._handles: list[Any] = []
        self._hooks: dict[str, _Hook] = {}

    def attach(self, patcher: Any) -> None:
        """Put the hooks on. ComfyUI calls it when it loads the model, and may do so twice."""
        self.detach(patcher)
        for key, items in self.items.items():
            module = comfy.utils.get_attr(patcher.model, key.rpartition(".")[0])
            self._hooks[key] = _Hook(op_of(module), items)
            self._handles.append(module.register_forward_hook(self._hooks[key], with_kwargs=True))

    def detach(self, patcher: Any) -> None:
        """Take the hooks off, and say which layers ran past theirs."""
        for handle in self._handles:
            handle.remove()
        idle = [key for key, hook in self._hooks.items() if not hook.calls]
        if idle and len(idle) < len(self._hooks):
            logging.warning(f"{len(idle)} adapter layers on activations were never called: {', '.join(idle[:3])}")
        self._handles, self._hooks = [], {}


class _Hook:
    def __init__(self, op: LayerOp, items: Sequence[Item]) -> None:
        self.op = op
        self.items = items
        self.calls = 0
        self._moved: dict[torch.device, list[Any]] = {}  # factors by device; gone when the hooks are taken off

    def __call__(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        self.calls += 1
        x = args[0] if args else kwargs["input"]
        channel = output.ndim - 1 if isinstance(self.op, LinearOp) else 1
        if x.device not in self._moved:
            self._moved[x.device] = [methods.move(item.layer.factors, device=x.device) for item in self.items]
        plain = output - bias_of(module, output, channel)
        change = torch.zeros_like(plain)
        for item, factors in zip(self.items, self._moved[x.device], strict=True):
            source = plain if item.from_base else plain + change
            part, reorder = target_slice(item.layer.target), target_function(item.layer.target)
            if part is not None:
                source = source.narrow(channel, *part[1:])
            added = item.layer.method.forward(
                factors, self.op, x, _reordered(source, reorder, channel),
                removal=item.removal, injection=item.injection,
            )  # fmt: skip
            added = _reordered(added, reorder, channel).mul(item.strength).to(change)
            (change if part is None else change.narrow(channel, *part[1:])).add_(added)
        return output + change


def _reordered(y: Tensor, reorder: Any, channel: int) -> Tensor:
    return y if reorder is None else reorder(y.movedim(channel, 0)).movedim(0, channel)


def bias_of(module: Any, output: Tensor, channel: int) -> Tensor | float:
    """The bias as the layer has just added it, patches of partly loaded layers included, shaped for its output."""
    bias = getattr(module, "bias", None)
    if bias is None:
        return 0.0
    bias = bias.to(output, copy=True)
    for function in getattr(module, "bias_function", []):
        bias = function(bias)
    return bias.view([-1 if dim == channel else 1 for dim in range(output.ndim)])


def add(
    patcher: Any,
    layers: Sequence[Layer],
    strength: float,
    *,
    removal: float = 1.0,
    injection: float = 1.0,
    stacking: str = "sequential",
) -> Any:
    """A clone of the model patcher with these layers of an adapter on its activations, after those that it has.

    `from_base` makes all adapters of a touched layer see W x, and adds them up; `sequential` lets this one see what the
    earlier ones made of it. Weight patches of the model come first in either case: they are in W x.

    Raises ValueError, before anything is changed, for a method that needs the weight, for layers that are neither
    linear nor a plain 2-D convolution, and for slices of inputs.
    """
    _check(patcher, layers)
    clone = patcher.clone()
    items: dict[str, tuple[Item, ...]] = {}
    for name in [name for name in clone.injections if name.startswith(_KEY)]:
        items |= clone.injections.pop(name)[0].items
    from_base = stacking == "from_base"
    for layer in layers:
        key = target_key(layer.target)
        earlier = items.get(key, ())
        if from_base:
            earlier = tuple(replace(item, from_base=True) for item in earlier)
        items[key] = (*earlier, Item(layer, strength, removal, injection, from_base))
    # A name of its own each time: ComfyUI takes two clones with the same names for the same model.
    clone.set_injections(f"{_KEY}_{uuid.uuid4().hex}", [Activations(items)])
    return clone


def _check(patcher: Any, layers: Sequence[Layer]) -> None:
    for layer in layers:
        if not layer.method.LOW_RANK:
            raise ValueError(
                f"{layer.method.NAME} layers such as {layer.name} need the weight and cannot work on activations: "
                "choose weights."
            )
        part = target_slice(layer.target)
        if part is not None and part[0] != 0:
            raise ValueError(f"{layer.name} changes a part of a layer's inputs: choose weights instead of activations.")
        module = comfy.utils.get_attr(patcher.model, target_key(layer.target).rpartition(".")[0])
        try:
            op_of(module)
        except ValueError as error:
            raise ValueError(f"{layer.name}: {error} Choose weights instead of activations.") from error
