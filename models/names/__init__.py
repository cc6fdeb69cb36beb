"""The weights of a ComfyUI model that the layer names of adapter files mean.

ComfyUI's own maps come first. Added are the names that PEFT, diffusers and original repositories write and ComfyUI does
not read. What diffusers calls the layers of an architecture stands in `architectures`, one file each.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import comfy.lora

from .architectures import spellings_of, table_of
from .spellings import dotted, fused
from .tables import WEIGHT
from .targets import Target, bias_target, describe, part_of, target_function, target_key, target_slice, with_key
from .text_encoders import encoder_names

__all__ = [
    "Target",
    "bias_target",
    "clip_names",
    "describe",
    "diffusers_names",
    "model_names",
    "module_names",
    "part_of",
    "target_function",
    "target_key",
    "target_slice",
]

_NETWORK = "diffusion_model."
_PEFT = "base_model.model."
# What stands before a module path of diffusers, in PEFT's files, in pipelines' files and in old training scripts'.
_PREFIXES = (
    "",
    "unet.",
    "transformer.",
    "base_model.model.",
    "unet.base_model.model.",
    "transformer.base_model.model.",
    _NETWORK,
)
# What stands before a path with underscores: kohya and its relatives, OneTrainer, SimpleTuner.
_UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
# What stands before a path in a file that musubi-tuner has converted, by default the first.
_CONVERTED = (_NETWORK, "transformer.")
# What stands before a path of the original repository, which is ComfyUI's.
_ORIGINAL = ("", "model.", "base_model.model.", "transformer.", "unet.", f"model.{_NETWORK}")


def diffusers_names(model: Any) -> dict[str, Target]:
    """The mapping module path in diffusers -> target, for layers with a weight; empty for an unknown architecture."""
    shapes = _shapes(model)
    return _present(_diffusers_names(model, shapes), shapes)


# The names of each model that is in memory, with the shapes that they were made for.
_MADE: WeakKeyDictionary[Any, tuple[dict[str, tuple[int, ...]], Mapping[str, Target]]] = WeakKeyDictionary()


def model_names(model: Any) -> Mapping[str, Target]:
    """Every layer name that means a weight of this MODEL; made once a model, and anew if its weights change.

    Where names clash, ComfyUI's own meaning goes before diffusers', diffusers' before the original repository's, and
    what other programs write last.
    """
    shapes = _shapes(model)
    before = _MADE.get(model.model)
    if before is None or before[0] != shapes:
        before = _MADE[model.model] = shapes, MappingProxyType(_model_names(model, shapes))
    return before[1]


def _model_names(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Target]:
    theirs = _diffusers_names(model, shapes)
    paths = _paths(shapes)
    original: dict[str, Target] = {path: f"{_NETWORK}{path}{WEIGHT}" for path in paths}
    spellings = _in_network(spellings_of(model.model, paths)) | fused(theirs, shapes)
    core_names = _present(comfy.lora.model_lora_keys_unet(model.model, {}), shapes)
    # The reader of PEFT's files takes the prefix off, also where ComfyUI reads such names.
    names: dict[str, Target] = {
        name.removeprefix(_PEFT): core_names[name] for name in core_names if name.startswith(_PEFT)
    }
    for table in (original, spellings, theirs):
        spelled = {dotted(name): target for name, target in table.items()}
        names |= {prefix + name: target for prefix in _CONVERTED for name, target in spelled.items()}
    for prefixes, table in (((*_ORIGINAL, *_PREFIXES), spellings), (_ORIGINAL, original), (_PREFIXES, theirs)):
        names |= {prefix + name: target for prefix in prefixes for name, target in table.items()}
    underscored = {name.replace(".", "_"): target for name, target in (original | spellings | theirs).items()}
    for prefix in _UNDERSCORED:
        names |= {prefix + name: target for name, target in underscored.items()}
    return core_names | _present({name: target for name, target in names.items() if name not in core_names}, shapes)


def clip_names(clip: Any) -> dict[str, Target]:
    """Every layer name that means a weight of this CLIP's text encoders."""
    network = clip.cond_stage_model
    return {**encoder_names(network), **comfy.lora.model_lora_keys_clip(network, {})}


def module_names(model: Any) -> dict[str, str]:
    """The mapping native layer name ("diffusion_model.<path>") -> module path in diffusers.

    Only for weights that are the same there: neither fused nor with their rows in another order.
    """
    shapes = _shapes(model)
    core_names = comfy.lora.model_lora_keys_unet(model.model, {})
    theirs = {
        name.removeprefix("transformer."): core_names[name] for name in core_names if name.startswith("transformer.")
    }
    table = _diffusers_names(model, shapes) or theirs
    return {
        target_key(target).removesuffix(WEIGHT): name
        for name, target in _present(table, shapes).items()
        if target_slice(target) is None and target_function(target) is None
    }


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.model.state_dict().items()}


def _paths(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The paths of all modules with a weight in ComfyUI's network."""
    return [key[len(_NETWORK) : -len(WEIGHT)] for key in shapes if key.startswith(_NETWORK) and key.endswith(WEIGHT)]


def _diffusers_names(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Target]:
    return _in_network(table_of(model.model, _paths(shapes)))


def _in_network(table: Mapping[str, Target]) -> dict[str, Target]:
    """A table of modules with the model's keys in place of their paths."""
    return {name: with_key(target, f"{_NETWORK}{target_key(target)}{WEIGHT}") for name, target in table.items()}


def _present(names: Mapping[str, Target], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Target]:
    """The names whose target this model has: tables also name the layers of a model's relatives.

    A slice past the end is of that kind: ComfyUI's table of Z-Image, which has as many key heads as query heads, gives
    such for Lumina 2, which has not.
    """

    def has(target: Target) -> bool:
        shape, part = shapes.get(target_key(target)), target_slice(target)
        return shape is not None and (part is None or part[1] + part[2] <= shape[part[0]])

    present = {target: has(target) for target in set(names.values())}  # dozens of names mean the same
    return {name: target for name, target in names.items() if present[target]}
