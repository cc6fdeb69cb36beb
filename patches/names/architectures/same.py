"""Architectures whose layers have diffusers' names in ComfyUI too: QwenImageTransformer2DModel and OmniGen2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Target

MODELS = ("QwenImage", "Omnigen2")


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """Every layer by its own name."""
    return {path: path for path in paths}
