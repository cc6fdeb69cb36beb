"""Wan 2.1 and 2.2: diffusers' WanTransformer3DModel, and the layers that WanVACETransformer3DModel adds.

diffusers numbers the norms of a block in the order of use: its norm2 is the original's norm3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tables import indices, within
from ..targets import Target

MODELS = ("WAN21",)

_TOP: dict[str, Target] = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "vace_patch_embedding": "vace_patch_embedding",
    "proj_out": "head.head",
}
_BLOCK: dict[str, Target] = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn1.norm_q": "self_attn.norm_q",
    "attn1.norm_k": "self_attn.norm_k",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.norm_q": "cross_attn.norm_q",
    "attn2.norm_k": "cross_attn.norm_k",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "proj_in": "before_proj",  # these two in VACE only
    "proj_out": "after_proj",
}


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The whole table: ComfyUI has none."""
    table = dict(_TOP)
    for folder in ("blocks", "vace_blocks"):
        for index in indices(paths, folder):
            table |= within(f"{folder}.{index}", _BLOCK)
    return table
