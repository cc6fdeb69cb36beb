"""The model that a set of weights belongs to, identified by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

PATCHES = {  # where each format keeps the patch embedding
    "extractor_list.0.model.patch_embed.proj.weight": "DreamSim's",
    "visual.trunk.patch_embed.proj.weight": "open_clip",
    "vision_model.embeddings.patch_embedding.weight": "transformers",
    "visual.conv1.weight": "open_clip",
    "embeddings.patch_embeddings.projection.weight": "transformers",
    "embeddings.patch_embeddings.weight": "transformers",
    "patch_embed.proj.weight": "timm or original",
}
CLIPS = {(768, 12): "ViT-B", (1024, 24): "ViT-L", (1280, 32): "ViT-H", (1408, 40): "ViT-g", (1664, 48): "ViT-bigG"}
VITS = {(192, 12): "ViT-Ti", (384, 12): "ViT-S", (768, 12): "ViT-B", (1024, 24): "ViT-L", (1536, 40): "ViT-g"}


def identify(state: Mapping[str, torch.Tensor]) -> str:
    """The model's name, such as "CLIP ViT-B/32 (transformers names)"; "" if the weights look like none listed here."""
    if any(key.endswith("layer4.0.conv1.weight") for key in state):
        return "a ResNet of torchvision's"
    key = next((key for key in PATCHES if key in state), None)
    if key is None or state[key].ndim != 4:
        return "a text encoder" if any("token_embedding" in name for name in state) else ""
    width, _, patch, _ = state[key].shape
    vision = [name for name in state if not name.startswith(("text_model.", "transformer."))]
    names = PATCHES[key]
    if key.startswith("extractor_list."):
        return "DreamSim with its LoRA apart" if any("lora_" in name for name in state) else "DreamSim (ensemble)"
    if any(name.startswith(("visual.trunk.attn_pool.", "vision_model.head.")) for name in state):
        vocabulary = next((len(value) for name, value in state.items() if "token_embedding" in name), 0)
        family, sizes, note = ("SigLIP2" if vocabulary > 200_000 else "SigLIP"), VITS, ""
        vision = [name for name in vision if name.startswith("vis")]
    elif "visual" in key or "vision_model" in key:
        family, sizes = "CLIP", CLIPS
        text = any("token_embedding" in name for name in state)
        note = "" if text else ", image encoder only"
    elif any(name.endswith(("reg_token", "register_tokens", "storage_tokens")) for name in state) and not any(
        "pos" in name for name in state
    ):
        family, sizes, note = "DINOv3", VITS, ""
    else:
        second = any(name.endswith((".ls1.gamma", ".layer_scale1.lambda1")) for name in state)
        family, sizes = ("DINOv2" if second else "DINO-like"), VITS
        note = ", with registers" if any("reg" in name.split(".")[-1] for name in state) else ""
    depth = len(
        {match.group(1) for name in vision if (match := re.search(r"(?:layers|resblocks|layer|blocks)\.(\d+)\.", name))}
    )
    size = sizes.get((width, depth), f"ViT of width {width} and {depth} layers")
    return f"{family} {size}/{patch} ({names} names{note})"
