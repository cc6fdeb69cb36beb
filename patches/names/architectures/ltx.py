"""LTX-Video: diffusers' LTXVideoTransformer3DModel. ComfyUI keeps the original's names, which differ in a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Target

MODELS = ("LTXV",)

_RENAMED = (
    ("patchify_proj", "proj_in"),
    ("adaln_single.", "time_embed."),
    (".q_norm", ".norm_q"),
    (".k_norm", ".norm_k"),
)


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """Every layer by its own name with diffusers' words in it."""
    table: dict[str, Target] = {}
    for path in paths:
        name = path
        for ours, theirs in _RENAMED:
            name = name.replace(ours, theirs)
        table[name] = path
    return table
