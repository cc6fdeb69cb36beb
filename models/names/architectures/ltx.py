"""LTX-Video and LTX-2: diffusers' LTXVideoTransformer3DModel and LTX2VideoTransformer3DModel.

ComfyUI keeps the original's names, which differ in a few words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Target

MODELS = ("LTXV", "LTXAV")

# In the order in which they are replaced.
_RENAMED = (
    ("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    ("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    ("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    ("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    ("prompt_adaln_single", "prompt_adaln"),
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
