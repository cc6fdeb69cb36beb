"""Mochi: the attention of diffusers' MochiTransformer3DModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tables import indices, parts, within
from ..targets import Target

MODELS = ("GenmoMochi",)

_PLAIN: dict[str, Target] = {
    "to_out.0": "proj_x",
    "to_add_out": "proj_y",
    "norm_q": "q_norm_x",
    "norm_k": "k_norm_x",
    "norm_added_q": "q_norm_y",
    "norm_added_k": "k_norm_y",
}


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The attention of every block; query, key and value are fused in ComfyUI."""
    width = base.model_config.unet_config["hidden_size_x"]
    fused = parts("qkv_x", dict.fromkeys(("to_q", "to_k", "to_v"), width))
    fused |= parts("qkv_y", dict.fromkeys(("add_q_proj", "add_k_proj", "add_v_proj"), width))
    table: dict[str, Target] = {}
    for index in indices(paths, "blocks"):
        table |= within(f"transformer_blocks.{index}.attn1", _PLAIN | fused, f"blocks.{index}.attn")
    return table
