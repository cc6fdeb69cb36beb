"""Adapters on the activations of layers instead of their weights: y + t (delta W) x, without touching W.

For quantised bases: patching rounds the changed weight to a few bits again and may lose a small change; this does not.
ComfyUI's own bypass skips slices of fused weights, keeps only the last of several loaders and takes the bias for a
part of W x. Here all of a model's adapters are forward hooks of one injection.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from weakref import WeakKeyDictionary

import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from torch import Tensor

from ..deft_ops import methods
from ..deft_ops.layer_ops import LayerOp, op_of
from ..matching.match import MatchedLayer
from ..models.layers import bias_of
from ..models.names import target_function, target_key, target_slice

_KEY = "deft"


@dataclass(frozen=True)
class Item:
    """One adapter layer at work: its factors, its strength, and whether it sees W x or what was changed before it."""

    layer: MatchedLayer
    strength: float
    removal: float
    injection: float
    from_base: bool


class Activations(PatcherInjection):
    """The adapters on the activations of a model, by weight key in the order of application.

    Clones of a patcher share this object, and several GPUs have a model each, so the hooks are kept by model.
    """

    def __init__(self, items: dict[str, tuple[Item, ...]]) -> None:
        super().__init__(self.attach, self.detach)
        self.items = items
        self._attached: WeakKeyDictionary[Any, _Attached] = WeakKeyDictionary()
        self._reported: set[str] = set()

    def attach(self, patcher: Any) -> None:
        """Put the hooks on the patcher's model. ComfyUI calls it when it has loaded the model, and may do so twice."""
        attached = self._attached.pop(patcher.model, None)
        if attached is not None:
            attached.remove()
        self._attached[patcher.model] = _Attached(patcher, self.items)

    def detach(self, patcher: Any) -> None:
        """Take off the hooks that this patcher has put on, and free their copies of the factors."""
        attached = self._attached.get(patcher.model)
        if attached is not None and attached.owner == id(patcher):
            self.report(patcher)
            self._attached.pop(patcher.model).remove()

    def report(self, patcher: Any) -> None:
        """Log, once each, the layers that the model has not called though it has run."""
        attached = self._attached.get(patcher.model)
        if attached is None or not attached.ran():
            return
        idle = [key for key, hook in attached.hooks.items() if not hook.called and key not in self._reported]
        if idle:
            self._reported |= set(idle)
            logging.warning(
                f"{len(idle)} adapter layers on activations did nothing, because the model does not call them as "
                f"layers: {', '.join(idle[:3])}. If it uses them in another way, choose weights."
            )


class _Attached:
    """The hooks on one model, and the id of the patcher that put them on."""

    def __init__(self, patcher: Any, items: dict[str, tuple[Item, ...]]) -> None:
        self.owner = id(patcher)
        self.hooks: dict[str, _Hook] = {}
        self.handles: list[Any] = []
        for key in items:
            module = comfy.utils.get_attr(patcher.model, key.rpartition(".")[0])
            self.hooks[key] = _Hook(op_of(module), items[key])
            self.handles.append(module.register_forward_hook(self.hooks[key], with_kwargs=True))
        self.finished = False
        if hasattr(patcher.model, "diffusion_model"):
            self.handles.append(patcher.model.diffusion_model.register_forward_hook(self._finish))

    def _finish(self, *call: Any) -> None:
        self.finished = True

    def ran(self) -> bool:
        """Whether the network has run to its end, or a CLIP, which is not called as a module, has begun to."""
        return self.finished or (len(self.handles) == len(self.hooks) and any(h.called for h in self.hooks.values()))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


class _Hook:
    """The adapters of one layer: adds to its output what they change."""

    def __init__(self, op: LayerOp, items: Sequence[Item]) -> None:
        self.op = op
        self.items = items
        self.called = False
        self._factors: dict[tuple[torch.device, torch.dtype, bool], list[Any]] = {}

    def __call__(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        self.called = True
        x = args[0] if args else kwargs["input"]
        channel = self.op.channel(output)
        bias = bias_of(module, output, channel)
        plain = output if bias is None else output - bias
        change: Tensor | None = None
        for item, factors in zip(self.items, self.factors(x), strict=True):
            part, reorder = target_slice(item.layer.target), target_function(item.layer.target)
            source = plain if item.from_base or change is None else plain + change
            if part is not None:
                source = source.narrow(channel, *part[1:])
            # The change is linear in the two weights, so they take the strength.
            assert item.layer.method.forward is not None
            added = item.layer.method.forward(
                factors,
                self.op,
                x,
                _reordered(source, reorder, channel),
                removal=item.strength * item.removal,
                injection=item.strength * item.injection,
            )
            added = _reordered(added, reorder, channel).to(output)
            if change is None and part is None:
                change = added
                continue
            change = torch.zeros_like(output) if change is None else change
            (change if part is None else change.narrow(channel, *part[1:])).add_(added)
        return output if change is None else output + change

    def factors(self, x: Tensor) -> list[Any]:
        """The factors on x's device and in its dtype. float32 products of half-precision activations did not help."""
        place = (x.device, x.dtype, torch.is_inference_mode_enabled())
        if place not in self._factors:
            self._factors[place] = [_moved(item.layer.factors, x) for item in self.items]
        return self._factors[place]


def _moved(factors: Any, x: Tensor) -> Any:
    moved = methods.move(factors, x.device, x.dtype)
    if torch.is_inference_mode_enabled():
        return moved
    # Training on this model: what nodes have read are inference tensors, which autograd does not take.
    tensors = {field.name: getattr(moved, field.name) for field in fields(moved)}
    return replace(moved, **{name: value.clone() for name, value in tensors.items() if isinstance(value, Tensor)})


def _reordered(y: Tensor, reorder: Any, channel: int) -> Tensor:
    return y if reorder is None else reorder(y.movedim(channel, 0)).movedim(0, channel)


def add(
    patcher: Any,
    layers: Sequence[MatchedLayer],
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
    linear nor a plain convolution, and for slices of inputs.
    """
    check(patcher, layers)
    clone = patcher.clone()
    earlier = clone.get_injections(_KEY)
    items: dict[str, tuple[Item, ...]] = dict(earlier[0].items) if earlier else {}
    from_base = stacking == "from_base"
    for layer in layers:
        key = target_key(layer.target)
        before = items.get(key, ())
        if from_base:
            before = tuple(replace(item, from_base=True) for item in before)
        items[key] = (*before, Item(layer, strength, removal, injection, from_base))
    clone.set_injections(_KEY, [Activations(items)])
    for call, function in ((CallbacksMP.ON_CLONE, _not_injected), (CallbacksMP.ON_CLEANUP, _report)):
        clone.remove_callbacks_with_key(call, _KEY)
        clone.add_callback_with_key(call, _KEY, function)
    _not_injected(patcher, clone)
    return clone


def _not_injected(patcher: Any, clone: Any) -> None:
    """Mark the clone as not injected. ComfyUI copies the flag, and a clone that dies would take the hooks off."""
    clone.is_injected = False


def _report(patcher: Any) -> None:
    for injection in patcher.get_injections(_KEY) or []:
        injection.report(patcher)


def check(patcher: Any, layers: Sequence[MatchedLayer]) -> None:
    """Raise ValueError, with the layer's name and the reason, for the first layer that cannot work on activations."""
    for layer in layers:
        if layer.method.forward is None:
            raise ValueError(
                f"{layer.method.name} layers such as {layer.name} need the weight and cannot work on activations: "
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
