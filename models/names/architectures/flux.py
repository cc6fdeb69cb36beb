"""Flux.1, Flux.2 and Chroma: diffusers' FluxTransformer2DModel, Flux2Transformer2DModel, ChromaTransformer2DModel.

ComfyUI has one table for all. Flux.1 and Chroma have no layers of some names of Flux.2 and the other way round, so that
here each weight has one name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import comfy.utils

from ..tables import from_comfyui, indices, within
from ..targets import Target

MODELS = ("Flux",)

_ONLY_FLUX1 = re.compile(
    r"single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)|.*\.net\.\d.*|time_text_embed\..*"
)
_ONLY_FLUX2 = re.compile(r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)|.*\.linear_(in|out)")
# What ComfyUI's table lacks of Flux.2.
_FLUX2: dict[str, Target] = {
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}
# What it lacks of Chroma.
_APPROXIMATOR = "distilled_guidance_layer"
_CHROMA: dict[str, Target] = {
    f"{_APPROXIMATOR}.in_proj": f"{_APPROXIMATOR}.in_proj",
    f"{_APPROXIMATOR}.out_proj": f"{_APPROXIMATOR}.out_proj",
}


# DiffSynth-Studio's names in its blocks (models/flux_dit.py).
_DIFFSYNTH_DOUBLE: dict[str, Target] = {
    "norm1_a.linear": "img_mod.lin",
    "norm1_b.linear": "txt_mod.lin",
    "attn.a_to_qkv": "img_attn.qkv",
    "attn.b_to_qkv": "txt_attn.qkv",
    "attn.a_to_out": "img_attn.proj",
    "attn.b_to_out": "txt_attn.proj",
    "ff_a.0": "img_mlp.0",
    "ff_a.2": "img_mlp.2",
    "ff_b.0": "txt_mlp.0",
    "ff_b.2": "txt_mlp.2",
}
_DIFFSYNTH_SINGLE: dict[str, Target] = {
    "norm.linear": "modulation.lin",
    "to_qkv_mlp": "linear1",
    "proj_out": "linear2",
}


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """ComfyUI's own table for the generation of this model, and what it lacks."""
    config = base.model_config.unet_config
    second = bool(config.get("global_modulation"))
    other = _ONLY_FLUX1 if second else _ONLY_FLUX2
    table = from_comfyui(comfy.utils.flux_to_diffusers(config))
    table = {name: target for name, target in table.items() if not other.fullmatch(name)}
    table |= _FLUX2 if second else _CHROMA
    for index in indices(paths, f"{_APPROXIMATOR}.layers"):
        table |= within(f"{_APPROXIMATOR}.layers.{index}", {"linear_1": "in_layer", "linear_2": "out_layer"})
        table[f"{_APPROXIMATOR}.norms.{index}"] = f"{_APPROXIMATOR}.norms.{index}"
    return table


def spellings(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """DiffSynth-Studio's names."""
    table: dict[str, Target] = {}
    for index in indices(paths, "double_blocks"):
        table |= within(f"blocks.{index}", _DIFFSYNTH_DOUBLE, f"double_blocks.{index}")
    for index in indices(paths, "single_blocks"):
        table |= within(f"single_blocks.{index}", _DIFFSYNTH_SINGLE)
    return table
