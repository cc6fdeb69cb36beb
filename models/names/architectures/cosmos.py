"""Cosmos Predict 2 and Anima: diffusers' CosmosTransformer3DModel; Anima's adapter of the text is a component there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Target

MODELS = ("CosmosPredict2", "Anima")

_ADAPTER = "llm_adapter."
# In the order in which they are replaced.
_RENAMED = (
    ("blocks.", "transformer_blocks."),
    ("adaln_modulation_self_attn.", "norm1.linear_"),
    ("adaln_modulation_cross_attn.", "norm2.linear_"),
    ("adaln_modulation_mlp.", "norm3.linear_"),
    ("self_attn.", "attn1."),
    ("cross_attn.", "attn2."),
    (".q_proj", ".to_q"),
    (".k_proj", ".to_k"),
    (".v_proj", ".to_v"),
    (".output_proj", ".to_out.0"),
    (".q_norm", ".norm_q"),
    (".k_norm", ".norm_k"),
    ("mlp.layer1", "ff.net.0.proj"),
    ("mlp.layer2", "ff.net.2"),
    ("final_layer.adaln_modulation.", "norm_out.linear_"),
    ("final_layer.linear", "proj_out"),
    ("t_embedder.1", "time_embed.t_embedder"),
    ("t_embedding_norm", "time_embed.norm"),
    ("x_embedder.proj.1", "patch_embed.proj"),
)


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """Every layer by its own name with diffusers' words in it."""
    table: dict[str, Target] = {}
    for path in paths:
        if path.startswith(_ADAPTER):
            table[f"text_conditioner.{path.removeprefix(_ADAPTER)}"] = path
            continue
        name = path
        for ours, theirs in _RENAMED:
            name = name.replace(ours, theirs)
        table[name] = path
    return table
