"""An adapter as a ComfyUI hook: on only where a conditioning carries it, at a strength that keyframes may change.

What ComfyUI (0.24 to 0.30) does with weight hooks, and what follows:

* Hooks are put on in the order of their group, over the weights as the model's own patches left them. A change that is
  computed from the weight so far (`sequential`) therefore depends on which hooks came before it, and at which keyframe.
  `from_base` computes it from the weight without any patch or hook, which ComfyUI hands to hooks only: changes add up
  in any order, and removal and injection of one adapter may be two hooks with schedules of their own.
* A layer that is not fully loaded (low VRAM) gets its model's own patches while it is cast, after the hooks. Additive
  patches (LoRA) do not mind; a DEFT or PaRa adapter of the model then sees the weight as the hooks left it.
* Dynamic VRAM knows no hooks: ComfyUI samples with an ordinary copy of the model instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import comfy.hooks
import comfy.model_management
import torch
from torch import Tensor

from ..models.names import Target, target_key
from ..models.titles import title_of
from .apply import STACKING, ApplyReport, apply
from .weight_adapter import DeftWeightAdapter

_Shapes = dict[str, tuple[int, ...]]


class FromBaseHookAdapter(DeftWeightAdapter):
    """The patch W + strength * delta(W0), with W0 the weight without any patch or hook."""

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
        """Edit `weight` [out, in, ...] in place and return it.

        `original_weight` is ComfyUI's list of (weight, what makes it plain) by key. Without it, outside of hooks, the
        change is computed from the weight that comes in.
        """
        if strength == 0:
            return weight
        if original_weight is None:
            base = weight.clone()
        else:
            stored, plain = original_weight[key][0]
            cast = comfy.model_management.cast_to_device(stored, weight.device, torch.float32, copy=True)
            whole = plain(cast, inplace=True)
            base = whole if offset is None else whole.narrow(*offset)
        changed = super().calculate_weight(
            base.clone(), key, strength, 1.0, offset, function, intermediate_dtype, original_weight
        )
        weight += changed - base
        return weight


def added(patcher: Any) -> dict[Target, Any]:
    """The patches of a model patcher, by target as in `add_patches`."""
    by_target: dict[Target, Any] = {}
    for key, patches in patcher.patches.items():
        for _, patch, _, offset, function in patches:
            target: Target = key
            if function is not None:
                target = (key, offset, function)
            elif offset is not None:
                target = (key, offset)
            by_target[target] = patch
    return by_target


def unpatched(owner: Any) -> Any:
    """A clone of a MODEL or CLIP without patches, to collect those of one adapter."""
    owner = owner.clone()
    getattr(owner, "patcher", owner).patches = {}
    return owner


def from_base(patches: Mapping[Target, Any]) -> dict[Target, Any]:
    """The patches, with this pack's own computed from the weight without patches and hooks."""
    return {
        target: FromBaseHookAdapter(patch.loaded_keys, patch.weights) if isinstance(patch, DeftWeightAdapter) else patch
        for target, patch in patches.items()
    }


def shapes_of(patches: Mapping[Target, Any], patcher: Any) -> _Shapes:
    """The shapes of the weights that are patched, by key."""
    state = patcher.model.state_dict()
    return {target_key(target): tuple(state[target_key(target)].shape) for target in patches}


def fits_model(
    expected: Mapping[comfy.hooks.EnumWeightTarget, _Shapes],
    hook: Any,
    patcher: Any,
    model_options: Any,
    target_dict: Mapping[str, Any],
    registered: Any,
) -> bool:
    """Whether a hook is for the model or CLIP that is used now, for ComfyUI, which drops unknown weights in silence.

    Raises ValueError if the hook was made for another one.
    """
    state = patcher.model.state_dict()
    target = target_dict.get("target", comfy.hooks.EnumWeightTarget.Model)
    for key, shape in expected.get(target, {}).items():
        if key not in state or tuple(state[key].shape) != shape:
            actual = f"is {list(state[key].shape)}" if key in state else "does not exist"
            raise ValueError(
                f"A hook of Create Hook Adapter was made for another {target.value}: {key} should be {list(shape)}, "
                f"but {actual} in this {title_of(patcher.model)}. Connect the {target.value} in use to the node."
            )
    return True


def create_hook(
    adapter: Mapping[str, Tensor],
    model: Any,
    clip: Any = None,
    *,
    strength_model: float = 1.0,
    strength_clip: float = 1.0,
    removal: float = 1.0,
    injection: float = 1.0,
    stacking: str = "from_base",
    source: str = "",
) -> tuple[comfy.hooks.HookGroup, ApplyReport]:
    """An adapter as a group of one weight hook for this MODEL (and CLIP), and the matched layers.

    The strengths are those at a keyframe of 1. `sequential` computes the change from the weight as the model's patches
    and the hooks before it left it, `from_base` from the weight without any; see the module for where they differ.

    Raises:
        ValueError: a damaged adapter; an unknown stacking; no layer of the adapter is in the model or the CLIP.
    """
    if stacking not in STACKING:
        raise ValueError(f"Unknown stacking {stacking!r}: choose one of {', '.join(STACKING)}.")
    owners = {"model": unpatched(model), "clip": None if clip is None else unpatched(clip)}
    patched, patched_clip, report = apply(adapter, **owners, removal=removal, injection=injection, source=source)
    patches = added(patched)
    patches_clip = {} if patched_clip is None else added(patched_clip.patcher)
    expected = {comfy.hooks.EnumWeightTarget.Model: shapes_of(patches, patched)}
    if patched_clip is not None:
        expected[comfy.hooks.EnumWeightTarget.Clip] = shapes_of(patches_clip, patched_clip.patcher)
    if stacking == "from_base":
        patches, patches_clip = from_base(patches), from_base(patches_clip)
    group = comfy.hooks.HookGroup()
    if strength_model == 0 and strength_clip == 0:
        return group, report
    hook = comfy.hooks.WeightHook(strength_model=strength_model, strength_clip=strength_clip)
    hook.need_weight_init = False  # matched already, by more names than ComfyUI's own
    hook.weights, hook.weights_clip = patches, patches_clip
    hook.custom_should_register = partial(fits_model, expected)
    group.add(hook)
    return group, report
