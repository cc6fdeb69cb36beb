"""MiniMax H3: diffusers' MiniMaxH3Transformer3DModel.

Its feed-forward layer has value and gate in the other order than the original's and ComfyUI's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.utils import swap_scale_shift

from ..tables import indices, parts, within
from ..targets import Target

MODELS = ("MiniMaxH3",)

_TOP: dict[str, Target] = {
    "proj_in": "video_patch_proj",
    "audio_proj_in": "audio_patch_proj",
    "context_embedder": "condition_proj",
    "time_embedder.linear_1": "time_embedder.proj_in",
    "time_embedder.linear_2": "time_embedder.proj_out",
    "norm_out.linear": "final_layer.adaln_proj.linear",
    "proj_out": "final_layer.video_out",
    "audio_proj_out": "final_layer.audio_out",
}
_BLOCK: dict[str, Target] = {
    "attn.to_out.0": "attn.out_proj",
    "ff.net.0.proj": ("mlp.fc1", None, swap_scale_shift),
    "ff.net.2": "mlp.fc2",
    "adaln_proj.linear": "adaln_proj.linear",
}
_FOLDERS = {"transformer_blocks": "blocks", "token_refiner.refiner_blocks": "token_refiner.blocks"}


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The whole table: ComfyUI has none."""
    table = dict(_TOP)
    for theirs, ours in _FOLDERS.items():
        for index in indices(paths, ours):
            table |= within(f"{theirs}.{index}", _BLOCK | _attention(base), f"{ours}.{index}")
    return table


def _attention(base: Any) -> dict[str, Target]:
    config = base.model_config.unet_config
    width = config.get("num_attention_heads", 56) * config.get("attention_head_dim", 128)
    return parts("attn.qkv_proj", dict.fromkeys(("attn.to_q", "attn.to_k", "attn.to_v"), width))
