"""Weights of modules that hold other modules, such as the `modulation` of Wan's blocks: ComfyUI patches none of them.

Its list of what to load has only modules at the ends (ModelPatcher._load_list, 0.24 to 0.30), so a patch of another
parameter is kept and never computed. Here it is computed when it is added, and the parameter is replaced, which ComfyUI
does and undoes with the other objects of a model. Hooks are put on every weight by ComfyUI itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.lora
import torch

from ..models.layers import module_of
from ..models.names import Target, target_function, target_key, target_slice


def add_patches(patcher: Any, patches: Mapping[Target, Any], strength: float) -> None:
    """Add patches to a model patcher, a clone of one's own, as its `add_patches` does, those of such parameters too.

    They are among its patches with a strength of 0, for whoever looks there for what an adapter changes.
    """
    inner = {target: patch for target, patch in patches.items() if _is_inner(patcher.model, target_key(target))}
    patcher.add_patches({target: patch for target, patch in patches.items() if target not in inner}, strength)
    if not inner:
        return
    patcher.add_patches(inner, 0.0)
    for target, patch in inner.items():
        key = target_key(target)
        value = patcher.get_model_object(key)
        entry = (strength, patch, 1.0, target_slice(target), target_function(target))
        with torch.no_grad():
            changed = comfy.lora.calculate_weight([entry], value.detach().to(torch.float32, copy=True), key)
        patcher.add_object_patch(key, torch.nn.Parameter(changed.to(value.dtype), requires_grad=False))


def _is_inner(model: Any, key: str) -> bool:
    """Whether the module that a weight belongs to holds other modules with weights."""
    module = module_of(model, key)
    return bool(module._modules) and any(next(child.parameters(), None) is not None for child in module.children())
