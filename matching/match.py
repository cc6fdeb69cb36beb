"""The match of an adapter's layers with the weights of a MODEL or CLIP, and the layers without one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops import methods
from ..models.names import Target, bias_target, target_key, target_slice
from . import peft_tuners
from .foreign import is_plain_lora, kind, misfit, repaired, with_difference


@dataclass(frozen=True)
class MatchedLayer:
    """One layer of an adapter on its weight: its name in the file, the weight (or slice), method and factors."""

    name: str
    target: Target
    method: methods.Method[Any]
    factors: Any


@dataclass
class Match:
    """An adapter laid over one MODEL or CLIP.

    `layers` are of this pack's methods; `foreign` are patches of ComfyUI's own loader by target (plain LoRA among them
    unless it was asked for as layers), `repaired` those of them that ComfyUI's classes could not compute as they are in
    the file. `misfits` name the layers that do not fit their weight, `misfit_keys` are their tensors; `used` are the
    tensors that the layers and patches are made of.
    """

    layers: list[MatchedLayer] = field(default_factory=list)
    foreign: dict[Target, Any] = field(default_factory=dict)
    repaired: set[Target] = field(default_factory=set)
    misfits: list[str] = field(default_factory=list)
    misfit_keys: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)


@dataclass
class Left:
    """The unused parts of an adapter: whole layers, tensors of layers that are used otherwise, and misfits."""

    layers: list[str]
    tensors: list[str]
    misfits: list[str]

    @property
    def all(self) -> list[str]:
        """All layers, tensors and misfits, for a list."""
        return self.layers + self.tensors + self.misfits


def left_of(adapter: Mapping[str, Tensor], matches: Iterable[Match]) -> Left:
    """The tensors and layers that no match uses, by their names in the file."""
    used: set[str] = set()
    unfit: set[str] = set()
    misfits: list[str] = []
    for matched in matches:
        used |= matched.used
        unfit |= matched.misfit_keys
        misfits += matched.misfits
    used_layers = {layer_of(key) for key in used | unfit}
    unused = [key for key in adapter if key not in used and key not in unfit]
    layers = {layer_of(key) for key in unused} - used_layers
    tensors = sorted(adapters.spelling(adapter, key) for key in unused if layer_of(key) not in layers)
    return Left(sorted(layers), tensors, misfits)


def sliced_shape(shape: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """The shape of a target, given the shape of its whole weight."""
    part = target_slice(target)
    if part is None:
        return shape
    return tuple(part[2] if dim == part[0] else size for dim, size in enumerate(shape))


# What stands behind a layer's name in the tensors of the LoRA flavours, with or without the adapter's name within PEFT.
_PART = re.compile(
    r"(_lora\.(up|down)|\.lora\.(up|down)|\.lora_linear_layer\.(up|down)"
    r"|\.(lora_(A|B|up|down|mid|E|magnitude_vector)|oft_R|[ab][12])(\.[^.]+)?)\.(weight|bias|scaled_oft)$"
)


def layer_of(key: str) -> str:
    """The layer name of a tensor key of any LoRA flavour; never empty."""
    part = _PART.search(key)
    return (key[: part.start()] if part else key.rpartition(".")[0]) or key


def layer_names(adapter: Mapping[str, Tensor]) -> set[str]:
    """All layer names of an adapter, of this pack's methods and of ComfyUI's."""
    return {layer_of(key) for key in adapter}


def advice(adapter: Mapping[str, Tensor], usual: str) -> str:
    """The advice for an adapter that does not fit: the usual, unless its reader knows that no model will."""
    metadata: Mapping[str, str] = getattr(adapter, "metadata", {})
    return metadata.get("if_nothing_fits", usual)


def with_plain_loras(matched: Match) -> Match:
    """The match with the plain LoRA patches of ComfyUI's loader, of any naming, as layers of this pack's."""
    for target, patch in list(matched.foreign.items()):
        if is_plain_lora(patch):
            up, down, alpha = patch.weights[:3]
            scale = 1.0 if alpha is None else float(alpha) / len(down)
            factors = methods.PLAIN_PAIR.Factors(up.flatten(1), down.flatten(1), scale)
            matched.layers.append(MatchedLayer(layer_of(min(patch.loaded_keys)), target, methods.PLAIN_PAIR, factors))
            del matched.foreign[target]
    return matched


# Tensors that ComfyUI's loader reads last: the first overwrite a layer's other patch.
_WHOLE = (".diff", ".w_norm", ".set_weight")
_DIFFERENCES = (*_WHOLE, ".diff_b", ".b_norm")


def match(
    adapter: Mapping[str, Tensor],
    names: Mapping[str, Target],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    plain_lora: bool = False,
    source: str = "",
) -> Match:
    """Lay an adapter over a model with these layer names and these shapes of its weights by key.

    plain_lora: give plain LoRA layers as layers too; otherwise ComfyUI's own loader makes their patches.
    `source` names the adapter in messages. Raises ValueError if two layers of it mean the same weight, or the tensors
    of one do not fit together.
    """
    result = Match()
    source = source or adapters.source_of(adapter)
    by_layer = adapters.parsed(adapter)
    unclaimed = dict(by_layer.foreign)
    taken: dict[Target, str] = {}
    _match_peft(peft_tuners.lay(adapter, names, shapes), unclaimed, result, taken, source)
    for name, layer in by_layer.layers.items():
        method, group = layer.method, layer.tensors
        if method is methods.PLAIN_PAIR and (not plain_lora or any(f"{name}{end}" in unclaimed for end in _WHOLE)):
            unclaimed |= {f"{name}.{suffix}": tensor for suffix, tensor in group.items()}
            continue
        target = target_of(name, names)
        if target is None:
            continue
        keys = {f"{name}.{suffix}" for suffix in group}
        try:
            factors = layer.factors
        except ValueError as error:
            raise ValueError(f"Layer {name} of {source} does not fit together: {error}.") from error
        reason = _misfit_of(method, factors, target, shapes.get(target_key(target)))
        if reason is not None:
            result.misfits.append(f"{name} ({reason})")
            result.misfit_keys |= keys
            continue
        _take(taken, target, name, source)
        result.used |= keys
        result.layers.append(MatchedLayer(name, target, method, factors))
    _match_foreign(unclaimed, names, shapes, result, taken, source)
    _find_halves(adapter, unclaimed, names, result)
    return result


def _find_halves(
    adapter: Mapping[str, Tensor], tensors: Iterable[str], names: Mapping[str, Target], result: Match
) -> None:
    """Add to the misfits the layers that the model has, but whose tensors nothing computes."""
    done = result.used | result.misfit_keys
    left = [key for key in tensors if key not in done]
    done_layers = {layer_of(key) for key in done} if left else set()
    halves: dict[str, list[str]] = {}
    for key in left:
        if (name := layer_of(key)) in names and name not in done_layers:
            halves.setdefault(name, []).append(key)
    for name, keys in halves.items():
        ends = ", ".join(adapters.spelling(adapter, key).removeprefix(f"{name}.") for key in keys)
        result.misfits.append(f"{name} (not computed: {ends} without what belongs to it, or of an unknown kind)")
        result.misfit_keys |= set(keys)


def _match_peft(
    laid: peft_tuners.Laid, unclaimed: dict[str, Tensor], result: Match, taken: dict[Target, str], source: str
) -> None:
    """Add the layers that PEFT itself computes, and take their tensors away from the other readers."""
    for key in laid.keys & unclaimed.keys():
        del unclaimed[key]
    for name, target, factors in laid.layers:
        _take(taken, target, name, source)
        result.layers.append(MatchedLayer(name, target, methods.BY_PEFT, factors))
    result.used |= laid.used
    result.misfits += laid.misfits
    result.misfit_keys |= laid.misfit_keys


def _misfit_of(method: methods.Method[Any], factors: Any, target: Target, whole: tuple[int, ...] | None) -> str | None:
    """The reason why a layer of this pack's methods does not belong to its target, in a whole weight of this shape."""
    if whole is None:
        return f"does not fit: the model has no {target_key(target)}"
    shape = sliced_shape(whole, target)
    if method.fits(factors, shape):
        return None
    return method.misfit(factors, shape) or f"{method.name} of another size, this weight is {list(shape)}"


def _take(taken: dict[Target, str], target: Target, name: str, source: str) -> None:
    if taken.get(target) == name:
        raise ValueError(f"Layer {name} of {source} has two kinds of change for the same weight: remove one of them.")
    if target in taken:
        raise ValueError(
            f"Two layers of {source} are for the same weight {target_key(target)}: {taken[target]} and {name}. "
            "Remove one of them."
        )
    taken[target] = name


def _match_foreign(
    tensors: dict[str, Tensor],
    names: Mapping[str, Target],
    shapes: Mapping[str, tuple[int, ...]],
    result: Match,
    taken: dict[Target, str],
    source: str,
) -> None:
    """Add the patches of ComfyUI's own loader. Layers that do not fit become misfits: ComfyUI itself only logs them."""
    # Name by name, so that two names of one weight are seen; a name that begins no tensor is not asked for.
    begun: dict[str, list[str]] = {}
    for key in tensors:
        for start in {key[:end] for end in _ends(key)}:
            if start in names:
                begun.setdefault(start, []).append(key)
    for name in (name for name in names if name in begun):
        group = {key: tensors[key] for key in begun[name]}
        differences = {key: group.pop(key) for key in list(group) if key.endswith(_DIFFERENCES)}
        fitting: dict[Target, tuple[Any, set[str], bool]] = {}
        for read, loaded, keys in [
            *_loaded(group, name, names[name], result),
            *_loaded(differences, name, names[name], result),
        ]:
            target = bias_target(names[name]) if read == _LOST_BIAS else read
            whole = shapes.get(target_key(target))
            if whole is None:
                result.misfits.append(f"{name} (does not fit: the model has no {target_key(target)})")
                result.misfit_keys |= keys
                continue
            patch, shape = repaired(loaded), sliced_shape(whole, target)
            reason = misfit(patch, shape)
            if reason is not None:
                what = name if target == names[name] else f"{name}, {target_key(target)}"
                result.misfits.append(f"{what} ({reason})")
                result.misfit_keys |= keys
                continue
            if target in fitting and (both := with_difference(fitting[target][0], patch, shape)) is not None:
                patch, keys = both, keys | fitting[target][1]
            # Of another two ComfyUI keeps the last; the tensors of the first are then reported as not used.
            fitting[target] = patch, keys, patch is not loaded
        for target, (patch, keys, changed) in fitting.items():
            _take(taken, target, name, source)
            result.foreign[target] = patch
            result.used |= keys
            if changed:
                result.repaired.add(target)


def _ends(key: str) -> list[int]:
    """The places where a layer name may end in a tensor key: before a dot, or before diffusers' old "_lora." ending."""
    ends = [len(key)]
    while (dot := key.rfind(".", 0, ends[-1])) >= 0:
        ends.append(dot)
    old = key.rfind("_lora.")
    return [*ends, old] if old >= 0 else ends


# What ComfyUI's loader takes the bias of a slice for: its key is cut out of the target as if that were a string.
_LOST_BIAS = "().bias"


def target_of(name: str, names: Mapping[str, Target]) -> Target | None:
    """The target of a layer name: the weight of this name, or the bias of the layer before ".bias"."""
    if name in names or not name.endswith(".bias"):
        return names.get(name)
    weight = names.get(name.removesuffix(".bias"))
    return None if weight is None else bias_target(weight)


def _loaded(group: dict[str, Tensor], name: str, target: Target, result: Match) -> list[tuple[Target, Any, set[str]]]:
    """ComfyUI's patches of one layer, each with the tensors it is made of; a layer that lacks a tensor is a misfit."""
    if not group:
        return []
    alpha = group.get(f"{name}.alpha")
    try:
        if alpha is not None and alpha.numel() != 1:
            raise ValueError(f"its alpha is {list(alpha.shape)}, not one number")
        patches: dict[Target, Any] = comfy.lora.load_lora(group, {name: target}, log_missing=False)
    except KeyError as error:
        reason = f"the file has no {error.args[0]}"
    except (ValueError, IndexError, RuntimeError, TypeError) as error:
        reason = str(error)
    else:
        return [(read, patch, _made_of(patch, group)) for read, patch in patches.items()]
    result.misfits.append(f"{name} (does not fit: {reason})")
    result.misfit_keys |= group.keys()
    return []


def _made_of(patch: Any, group: Mapping[str, Tensor]) -> set[str]:
    """The tensors of a layer that a patch is made of."""
    if isinstance(patch, tuple):
        return {key for key, tensor in group.items() if tensor is patch[1][0]}
    keys = set(patch.loaded_keys) & group.keys()
    # ComfyUI's LoKr marks it before it has seen that the layer is none of its own.
    return keys if kind(patch) == "lokr" else {key for key in keys if not key.endswith(".lokr_t2")}
