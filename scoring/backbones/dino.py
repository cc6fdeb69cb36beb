"""DINO and DINOv2 by timm's VisionTransformer, from the original files, timm's or transformers'."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ..packages import needed_by
from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile, load_state, renamed


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """A vision transformer whose feature is its class token after the last norm."""
    module = build(settings)
    load_state(module, vit_state(state, module.patch_embed.grid_size), path, spec.name)
    return Backbone.of(spec, settings, module, weights)


def build(settings: EncoderSettings) -> torch.nn.Module:
    """The model with random weights. timm is only asked for the architecture: no network."""
    with needed_by("DINO"):
        from timm import create_model
        from timm.models.vision_transformer import VisionTransformer

    if isinstance(settings.architecture, dict):
        return VisionTransformer(**settings.architecture)
    return create_model(settings.architecture, pretrained=False, num_classes=0, img_size=settings.preprocess.crop)


def vit_state(state: dict[str, torch.Tensor], grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    """State of timm's VisionTransformer from the original file, timm's, or transformers' ViTModel or Dinov2Model.

    The position embedding is resampled to the model's grid as transformers does: bicubic, no antialias.
    """
    if "embeddings.cls_token" in state:
        own = {key: value for key, value in state.items() if not key.startswith("pooler.")}  # DINO has none
        state = renamed(own, _NAMES, "attention.{}.", ("query", "key", "value"))
    state = {key: value for key, value in state.items() if key != "mask_token"}
    if "pos_embed" in state:
        state["pos_embed"] = resample_positions(state["pos_embed"], grid)
    return state


_NAMES = (
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.query\.", ".attn.qkv."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


def resample_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Position embedding [1, 1 + n * n, d] -> [1, 1 + rows * columns, d]; the first token is the class token's."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return positions
    square = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
