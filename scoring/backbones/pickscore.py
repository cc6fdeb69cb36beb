"""PickScore (arXiv 2305.01569): a CLIP ViT-H/14 that was tuned on people's choices between two pictures of a prompt."""

from __future__ import annotations

from pathlib import Path

import torch

from . import clip
from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """CLIP with the factor that its file has learnt. Raises ValueError for a file without a text encoder."""
    backbone = clip.load(spec, settings, state, path, weights)
    if not backbone.reads_text:
        raise ValueError(f"{path} does not hold {spec.name}: it has no text encoder.")
    backbone.factor = float(backbone.module.logit_scale.exp())
    return backbone
