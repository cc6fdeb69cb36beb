"""Architectures whose layers have diffusers' names in ComfyUI too.

QwenImageTransformer2DModel, HiDreamImageTransformer2DModel, Kandinsky5Transformer3DModel, ErnieImageTransformer2DModel,
and OmniGen2, whose own repository writes diffusers' names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Target

MODELS = ("QwenImage", "Omnigen2", "HiDream", "Kandinsky5", "ErnieImage")


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """Every layer by its own name."""
    return {path: path for path in paths}
