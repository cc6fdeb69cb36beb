"""Which weight of a ComfyUI model a layer name of an adapter file means.

ComfyUI's own maps come first. Added are the names that PEFT and diffusers write and ComfyUI does not read: bare module
paths, `unet.` and `base_model.model.` in front of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.lora
import comfy.utils
from torch import Tensor

# A weight's key in the model, or (key, (dim, start, length)[, function]) for a slice of a fused weight.
Target = str | tuple

_PREFIXES = ("", "unet.", "base_model.model.", "unet.base_model.model.")
_TRANSFORMER_PREFIXES = ("", "base_model.model.", "transformer.base_model.model.")


def target_key(target: Target) -> str:
    """The model's key of a target, slice or not."""
    return target if isinstance(target, str) else target[0]


def target_slice(target: Target) -> tuple[int, int, int] | None:
    """(dim, start, length) of a target that is a slice of a fused weight."""
    return None if isinstance(target, str) or len(target) < 2 else target[1]


def target_function(target: Target) -> Callable[[Tensor], Tensor] | None:
    """What re-orders the rows of a target whose order differs from the file's; it is its own inverse."""
    return None if isinstance(target, str) or len(target) < 3 else target[2]


def diffusers_unet(model: Any) -> dict[str, str]:
    """Module path in diffusers -> key, for a UNet; empty for other architectures."""
    config = model.model.model_config.unet_config
    return {
        name.removesuffix(".weight"): f"diffusion_model.{key}"
        for name, key in comfy.utils.unet_to_diffusers(config).items()
        if name.endswith(".weight")
    }


def model_names(model: Any) -> dict[str, Target]:
    """Every layer name that means a weight of this MODEL."""
    names: dict[str, Target] = {}
    for name, key in diffusers_unet(model).items():
        for prefix in _PREFIXES:
            names[prefix + name] = key
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    for name, target in known.items():
        if name.startswith("transformer."):
            for prefix in _TRANSFORMER_PREFIXES:
                names[prefix + name.removeprefix("transformer.")] = target
    present = model.model.state_dict().keys()  # ComfyUI's maps also name layers that only a model's relatives have
    return {name: target for name, target in (names | known).items() if target_key(target) in present}


def clip_names(clip: Any) -> dict[str, Target]:
    """Every layer name that means a weight of this CLIP's text encoders."""
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    names: dict[str, Target] = {}
    for name, target in known.items():
        if name.startswith("text_encoder."):
            bare = name.removeprefix("text_encoder.")
            names[bare] = names[f"base_model.model.{bare}"] = target
    return names | known


def module_names(model: Any) -> dict[str, str]:
    """Native layer name ("diffusion_model.<path>") -> module path in diffusers, for weights that are not fused."""
    names = {key.removesuffix(".weight"): name for name, key in diffusers_unet(model).items()}
    for name, target in model_names(model).items():
        if name.startswith("transformer.") and "base_model" not in name and target_slice(target) is None:
            key = target_key(target).removesuffix(".weight")
            names.setdefault(key, name.removeprefix("transformer."))
    return names


def describe(names: Mapping[str, Any], count: int = 2) -> str:
    """A few layer names, for a message."""
    some = list(names)[:count]
    return ", ".join(some) + (", ..." if len(names) > count else "")
