"""HunyuanVideo, HunyuanVideo 1.5 and HunyuanImage 2.1: diffusers' HunyuanVideoTransformer3DModel and its relatives.

ComfyUI keeps neither diffusers' names nor the original's: it has Flux's. ComfyUI's own loader knows the original's in
part, and none of them with underscores, as kohya's scripts write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.utils import swap_scale_shift

from ..tables import indices, parts, within
from ..targets import Target

MODELS = ("HunyuanVideo", "HunyuanImage21")

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_TOP: dict[str, Target] = {
    "x_embedder.proj": "img_in.proj",
    "context_embedder.proj_in": "txt_in.input_embedder",
    "context_embedder.time_text_embed.timestep_embedder.linear_1": "txt_in.t_embedder.in_layer",
    "context_embedder.time_text_embed.timestep_embedder.linear_2": "txt_in.t_embedder.out_layer",
    "context_embedder.time_text_embed.text_embedder.linear_1": "txt_in.c_embedder.in_layer",
    "context_embedder.time_text_embed.text_embedder.linear_2": "txt_in.c_embedder.out_layer",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "norm_out.linear": ("final_layer.adaLN_modulation.1", None, swap_scale_shift),
    "proj_out": "final_layer.linear",
}
_REFINER: dict[str, Target] = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.to_out.0": "self_attn.proj",
    "ff.net.0.proj": "mlp.0",
    "ff.net.2": "mlp.2",
    "norm_out.linear": "adaLN_modulation.1",
}
_DOUBLE: dict[str, Target] = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_SINGLE: dict[str, Target] = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
# ComfyUI's words and the original's, in the order in which they are replaced.
_ORIGINAL = (
    ("attn.norm.query_norm", "attn_q_norm"),
    ("attn.norm.key_norm", "attn_k_norm"),
    ("norm.query_norm", "q_norm"),
    ("norm.key_norm", "k_norm"),
    ("attn.qkv", "attn_qkv"),
    ("attn.proj", "attn_proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
    ("_mod.lin", "_mod.linear"),
    (".modulation.lin", ".modulation.linear"),
    ("time_in.in_layer", "time_in.mlp.0"),
    ("time_in.out_layer", "time_in.mlp.2"),
    ("guidance_in.in_layer", "guidance_in.mlp.0"),
    ("guidance_in.out_layer", "guidance_in.mlp.2"),
    ("t_embedder.in_layer", "t_embedder.mlp.0"),
    ("t_embedder.out_layer", "t_embedder.mlp.2"),
    ("c_embedder.in_layer", "c_embedder.linear_1"),
    ("c_embedder.out_layer", "c_embedder.linear_2"),
)


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The whole table: ComfyUI has none."""
    width, ratio = _sizes(base)
    table = dict(_TOP)
    refiner = _REFINER | parts("self_attn.qkv", dict.fromkeys(_QKV, width))
    for index in indices(paths, "txt_in.individual_token_refiner.blocks"):
        table |= within(
            f"context_embedder.token_refiner.refiner_blocks.{index}",
            refiner,
            f"txt_in.individual_token_refiner.blocks.{index}",
        )
    double = (
        _DOUBLE
        | parts("img_attn.qkv", dict.fromkeys(_QKV, width))
        | parts("txt_attn.qkv", dict.fromkeys(_ADDED, width))
    )
    for index in indices(paths, "double_blocks"):
        table |= within(f"transformer_blocks.{index}", double, f"double_blocks.{index}")
    single = _SINGLE | parts("linear1", dict.fromkeys(_QKV, width) | {"proj_mlp": int(width * ratio)})
    for index in indices(paths, "single_blocks"):
        table |= within(f"single_transformer_blocks.{index}", single, f"single_blocks.{index}")
    return table


def spellings(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The original's names, and those of HunyuanVideo 1.5, which has query, key and value apart."""
    table: dict[str, Target] = {}
    for path in paths:
        name = path
        for ours, theirs in _ORIGINAL:
            name = name.replace(ours, theirs)
        table[name] = path
    width, _ = _sizes(base)
    for index in indices(paths, "double_blocks"):
        for side in ("img", "txt"):
            names = dict.fromkeys((f"{side}_attn_{part}" for part in "qkv"), width)
            table |= within(f"double_blocks.{index}", parts(f"{side}_attn.qkv", names))
    return table


def _sizes(base: Any) -> tuple[int, float]:
    config = base.model_config.unet_config
    return config.get("hidden_size", 3072), config.get("mlp_ratio", 4.0)
