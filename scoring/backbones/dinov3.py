"""DINOv3 by timm, from timm's files or transformers'."""

from __future__ import annotations

from pathlib import Path

import torch

from ..packages import needed_by
from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile, load_state, renamed


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """A vision transformer with rotary positions whose feature is its class token after the last norm."""
    module = build(settings)
    load_state(module, dinov3_state(state), path, spec.name)
    return Backbone.of(spec, settings, module, weights)


def build(settings: EncoderSettings) -> torch.nn.Module:
    """The model with random weights. timm is only asked for the architecture: no network."""
    with needed_by("DINOv3"):
        from timm import create_model

    given = settings.architecture
    name, changes = (given, {}) if isinstance(given, str) else (given["model"], given["arguments"])
    size = settings.preprocess.crop
    return create_model(name, pretrained=False, num_classes=0, global_pool="token", img_size=size, **changes)


def dinov3_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State of timm's Eva, in its form with biases, from timm's names or those of transformers' DINOv3ViTModel.

    timm's files of the small, base and large models have no biases of query and value, because these are zero.
    """
    if "embeddings.cls_token" in state:
        state = renamed(state, _NAMES, "attention.{}_proj.weight", "qkv")
    state = {key: value for key, value in state.items() if key != "mask_token"}
    for key in [key for key in state if key.endswith(".attn.qkv.weight")]:
        for part in "qv":
            state.setdefault(key.replace("qkv.weight", f"{part}_bias"), torch.zeros(state[key].shape[1]))
    return state


_NAMES = (
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.q_proj\.weight$", ".attn.qkv.weight"),
    (r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
