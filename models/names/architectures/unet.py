"""Stable Diffusion 1.x, 2.x and XL: diffusers' UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_base
import comfy.utils

from ..tables import from_comfyui
from ..targets import Target

MODELS = ("BaseModel",)  # ComfyUI has no class of its own for most; its table is empty for what is not a UNet


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """ComfyUI's own table, with one name for the embedding that diffusers names by model."""
    table = from_comfyui(comfy.utils.unet_to_diffusers(base.model_config.unet_config))
    sdxl = isinstance(base, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner))
    other = "class_embedding." if sdxl else "add_embedding."
    return {name: target for name, target in table.items() if not name.startswith(other)}
