"""AuraFlow: diffusers' AuraFlowTransformer2DModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.utils

from ..tables import from_comfyui
from ..targets import Target

MODELS = ("AuraFlow",)


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """ComfyUI's own table."""
    return from_comfyui(comfy.utils.auraflow_to_diffusers(base.model_config.unet_config))
