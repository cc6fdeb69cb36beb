"""HunyuanDiT: diffusers' HunyuanDiT2DModel.

diffusers numbers the norms of a block in the order of use; the original's second and third are swapped. Behind
"base_model.model." ComfyUI keeps the original's meaning of them (Tencent's own adapter files).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.utils import swap_scale_shift

from ..tables import indices, parts, within
from ..targets import Target

MODELS = ("HunyuanDiT",)

_TOP: dict[str, Target] = {
    "pos_embed.proj": "x_embedder.proj",
    "text_embedder.linear_1": "mlp_t5.0",
    "text_embedder.linear_2": "mlp_t5.2",
    "time_extra_emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_extra_emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_extra_emb.pooler.q_proj": "pooler.q_proj",
    "time_extra_emb.pooler.k_proj": "pooler.k_proj",
    "time_extra_emb.pooler.v_proj": "pooler.v_proj",
    "time_extra_emb.pooler.c_proj": "pooler.c_proj",
    "time_extra_emb.style_embedder": "style_embedder",
    "time_extra_emb.extra_embedder.linear_1": "extra_embedder.0",
    "time_extra_emb.extra_embedder.linear_2": "extra_embedder.2",
    "norm_out.linear": ("final_layer.adaLN_modulation.1", None, swap_scale_shift),
    "proj_out": "final_layer.linear",
}
_BLOCK: dict[str, Target] = {
    "norm1.norm": "norm1",
    "norm1.linear": "default_modulation.1",
    "attn1.norm_q": "attn1.q_norm",
    "attn1.norm_k": "attn1.k_norm",
    "attn1.to_out.0": "attn1.out_proj",
    "norm2": "norm3",
    "attn2.to_q": "attn2.q_proj",
    "attn2.norm_q": "attn2.q_norm",
    "attn2.norm_k": "attn2.k_norm",
    "attn2.to_out.0": "attn2.out_proj",
    "norm3": "norm2",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
    "skip_norm": "skip_norm",
    "skip_linear": "skip_linear",
}


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The whole table: ComfyUI has none."""
    width = base.model_config.unet_config.get("hidden_size", 1152)
    block = (
        _BLOCK
        | parts("attn1.Wqkv", {"attn1.to_q": width, "attn1.to_k": width, "attn1.to_v": width})
        | parts("attn2.kv_proj", {"attn2.to_k": width, "attn2.to_v": width})
    )
    table = dict(_TOP)
    for index in indices(paths, "blocks"):
        table |= within(f"blocks.{index}", block)
    return table
