"""Z-Image: diffusers' ZImageTransformer2DModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.utils

from ..tables import from_comfyui, indices, parts, within
from ..targets import Target
from .lumina2 import qkv_sizes

MODELS = ("Lumina2",)  # ComfyUI's class for both

_SIGLIP = "siglip_refiner"
# A refiner of the Omni variant, which ComfyUI's table lacks.
_BLOCK: dict[str, Target] = {
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
    "attention.to_out.0": "attention.out",
    **{name: name for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")},
    **{name: name for name in ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")},
}


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """ComfyUI's own table, and what it lacks."""
    config = base.model_config.unet_config
    if not config.get("z_image_modulation"):
        return {}
    table = from_comfyui(comfy.utils.z_image_to_diffusers(config))
    fused = parts("attention.qkv", qkv_sizes(config, ("attention.to_q", "attention.to_k", "attention.to_v")))
    table |= {name: name for name in ("siglip_embedder.0", "siglip_embedder.1")}
    for index in indices(paths, _SIGLIP):
        table |= within(f"{_SIGLIP}.{index}", _BLOCK | fused)
    return table
