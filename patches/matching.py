"""Which layer of an adapter belongs to which weight of a MODEL or CLIP, and which belongs to none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops import methods
from .foreign import misfit, repaired
from .names import Target, target_key, target_slice, with_key


@dataclass(frozen=True)
class Layer:
    """One layer of an adapter on its weight: its name in the file, the weight (or slice), method and factors."""

    name: str
    target: Target
    method: Any
    factors: Any


@dataclass
class Match:
    """An adapter laid over one MODEL or CLIP.

    `layers` are of this pack's methods; `foreign` are patches of ComfyUI's own loader by target (plain LoRA among them
    unless it was asked for as layers), `repaired` those of them that ComfyUI's classes could not compute as they are in
    the file; `misfits` say which layers do not fit their weight; `found` are the file's layer names that mean a weight
    here, misfits too.
    """

    layers: list[Layer] = field(default_factory=list)
    foreign: dict[Target, Any] = field(default_factory=dict)
    repaired: set[Target] = field(default_factory=set)
    misfits: list[str] = field(default_factory=list)
    found: set[str] = field(default_factory=set)


class _Reads(dict[str, Tensor]):
    """Tensors that remember which of them were read: ComfyUI's loader does not say what it used."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self.read.add(key)
        return super().get(key, default)


def sliced_shape(shape: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """The shape of a target, given the shape of its whole weight."""
    part = target_slice(target)
    if part is None:
        return shape
    return tuple(part[2] if dim == part[0] else size for dim, size in enumerate(shape))


def layer_of(key: str) -> str:
    """The layer name of a tensor key of any LoRA flavour, for a message."""
    head, _, tail = key.rpartition(".")
    return head.rpartition(".")[0] if tail == "weight" else head


def layer_names(adapter: Mapping[str, Tensor]) -> set[str]:
    """All layer names of an adapter, its own methods' and others'."""
    own, rest = adapters.split(adapter)
    return set(own) | {layer_of(key) for key in rest}


def advice(adapter: Mapping[str, Tensor], usual: str) -> str:
    """What to do about an adapter that does not fit: the usual, unless its reader knows that no model will."""
    metadata: Mapping[str, str] = getattr(adapter, "metadata", {})
    return metadata.get("if_nothing_fits", usual)


def match(
    adapter: Mapping[str, Tensor],
    names: Mapping[str, Target],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    plain_lora: bool = False,
) -> Match:
    """Lay an adapter over a model with these layer names and these shapes of its weights by key.

    plain_lora: give plain LoRA layers as layers too; otherwise ComfyUI's own loader makes their patches.
    Raises ValueError if two layers of the adapter mean the same weight.
    """
    result = Match()
    own, rest = adapters.split(adapter)
    taken: dict[Target, str] = {}
    for name, group in own.items():
        method = methods.method_of(group)
        if method is methods.get("lora") and not plain_lora:
            rest |= {f"{name}.{suffix}": tensor for suffix, tensor in group.items()}
            continue
        if name not in names:
            continue
        result.found.add(name)
        factors, target = method.from_tensors(group), names[name]
        shape = sliced_shape(shapes[target_key(target)], target)
        if not method.fits(factors, shape):
            result.misfits.append(f"{name} ({method.NAME} of another size, this weight is {list(shape)})")
            continue
        _take(taken, target, name)
        result.layers.append(Layer(name, target, method, factors))
    _match_foreign(rest, names, shapes, result, taken)
    return result


def _take(taken: dict[Target, str], target: Target, name: str) -> None:
    if target in taken:
        raise ValueError(
            f"Two layers of the adapter mean the same weight {target_key(target)}: {taken[target]} and {name}. "
            "Remove one of them."
        )
    taken[target] = name


def _match_foreign(
    tensors: dict[str, Tensor],
    names: Mapping[str, Target],
    shapes: Mapping[str, tuple[int, ...]],
    result: Match,
    taken: dict[Target, str],
) -> None:
    """What ComfyUI's own loader reads; layers that do not fit are taken out: ComfyUI itself only logs those."""
    if not tensors:
        return
    reads = _Reads(tensors)
    # Name by name, so that two names of one weight are seen; a name that begins no tensor is not asked for.
    begun = {key[:end] for key in tensors for end in _ends(key)}
    for name in (name for name in names if name in begun):
        before = len(reads.read)
        for read, loaded in _loaded(reads, name, names[name], result).items():
            target = bias_of(names[name]) if read == _LOST_BIAS else read
            whole = shapes.get(target_key(target))
            if whole is None:
                result.misfits.append(f"{name} (does not fit: the model has no {target_key(target)})")
                continue
            patch, shape = repaired(loaded), sliced_shape(whole, target)
            reason = misfit(patch, shape, target_slice(target))
            if reason is not None:
                what = name if target == names[name] else f"{name}, {target_key(target)}"
                result.misfits.append(f"{what} ({reason})")
                continue
            _take(taken, target, name)
            result.foreign[target] = patch
            if patch is not loaded:
                result.repaired.add(target)
        if len(reads.read) > before:
            result.found.add(name)
    result.found |= {layer_of(key) for key in reads.read}


def _ends(key: str) -> list[int]:
    """Where a layer name may end in a tensor key: before a dot, or before diffusers' old "_lora." ending."""
    ends = [index for index, letter in enumerate(key) if letter == "."]
    old = key.rfind("_lora.")
    return [*ends, len(key), *([old] if old >= 0 else [])]


# What ComfyUI's loader takes the bias of a slice for: its key is cut out of the target as if that were a string.
_LOST_BIAS = "().bias"


def bias_of(target: Target) -> Target:
    """The bias that belongs to a weight or to a slice of its rows."""
    key = target_key(target).removesuffix("weight") + "bias"
    part = target_slice(target)
    return key if part is not None and part[0] != 0 else with_key(target, key)


def _loaded(reads: _Reads, name: str, target: Target, result: Match) -> dict[Target, Any]:
    """ComfyUI's patches of one layer; a layer that lacks a tensor is a misfit."""
    try:
        return dict(comfy.lora.load_lora(reads, {name: target}, log_missing=False))
    except KeyError as error:
        result.misfits.append(f"{name} (does not fit: the file has no {error.args[0]})")
        return {}
