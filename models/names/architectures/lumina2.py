"""Lumina 2: diffusers' Lumina2Transformer2DModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tables import indices, parts, within
from ..targets import Target

MODELS = ("Lumina2",)

_TOP: dict[str, Target] = {
    "x_embedder": "x_embedder",
    "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_caption_embed.caption_embedder.0": "cap_embedder.0",
    "time_caption_embed.caption_embedder.1": "cap_embedder.1",
    "norm_out.linear_1": "final_layer.adaLN_modulation.1",
    "norm_out.linear_2": "final_layer.linear",
}
_BLOCK: dict[str, Target] = {
    "attn.norm_q": "attention.q_norm",
    "attn.norm_k": "attention.k_norm",
    "attn.to_out.0": "attention.out",
    "norm2": "attention_norm2",
    "feed_forward.linear_1": "feed_forward.w1",
    "feed_forward.linear_2": "feed_forward.w2",
    "feed_forward.linear_3": "feed_forward.w3",
    "ffn_norm1": "ffn_norm1",
    "ffn_norm2": "ffn_norm2",
}
_MODULATED: dict[str, Target] = {"norm1.linear": "adaLN_modulation.1", "norm1.norm": "attention_norm1"}
_PLAIN: dict[str, Target] = {"norm1": "attention_norm1"}
_FOLDERS = {"noise_refiner": _MODULATED, "context_refiner": _PLAIN, "layers": _MODULATED}


def qkv_sizes(config: dict[str, Any], names: Sequence[str]) -> dict[str, int]:
    """Rows of query, key and value in the fused weight, by these names; there may be fewer key than query heads."""
    heads = config["n_heads"]
    shared = config["dim"] // heads * (config.get("n_kv_heads") or heads)
    return dict(zip(names, (config["dim"], shared, shared), strict=True))


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The whole table: ComfyUI's is for Z-Image."""
    config = base.model_config.unet_config
    if config.get("z_image_modulation"):
        return {}
    fused = parts("attention.qkv", qkv_sizes(config, ("attn.to_q", "attn.to_k", "attn.to_v")))
    table = dict(_TOP)
    for folder, norm in _FOLDERS.items():
        for index in indices(paths, folder):
            table |= within(f"{folder}.{index}", _BLOCK | norm | fused)
    return table
