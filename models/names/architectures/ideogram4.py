"""Ideogram 4: diffusers' Ideogram4Transformer2DModel, which differs in the attention only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tables import indices, parts, within
from ..targets import Target

MODELS = ("Ideogram4",)


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """Every layer by its own name, but for query, key, value and output."""
    config = base.model_config.unet_config
    width = config.get("num_attention_heads", 18) * config.get("attention_head_dim", 256)
    table: dict[str, Target] = {path: path for path in paths if not path.endswith((".attention.qkv", ".attention.o"))}
    attention = {"attention.to_out.0": "attention.o"} | parts(
        "attention.qkv", dict.fromkeys(("attention.to_q", "attention.to_k", "attention.to_v"), width)
    )
    for index in indices(paths, "layers"):
        table |= within(f"layers.{index}", attention)
    return table
