"""The backbones with their preprocessing.

CLIP and DINOv2 as DreamBench++ reads them (transformers), DINO as torch.hub's users do (torchvision).
"""

from __future__ import annotations

from ..backbones import BackboneSpec, Settings
from ..preprocessing import IMAGENET, OPENAI_CLIP, Preprocess

# OpenAI's weights were trained with QuickGELU; the plain "ViT-B-32" architecture gives other features.
CLIP_B32 = BackboneSpec(
    name="CLIP ViT-B/32 (OpenAI)", kind="clip",
    settings=Settings("ViT-B-32-quickgelu", Preprocess(224, 224, *OPENAI_CLIP, as_transformers=True)),
    size="about 605 MB",
    files=("clip-vit-base-patch32.safetensors", "clip-vit-base-patch32/model.safetensors",
           "vit_base_patch32_clip_224.openai.safetensors",
           "vit_base_patch32_clip_224.openai/open_clip_model.safetensors"),
    source="model.safetensors of openai/clip-vit-base-patch32 or open_clip_model.safetensors of "
           "timm/vit_base_patch32_clip_224.openai on Hugging Face")

DINO_S16 = BackboneSpec(
    name="DINO ViT-S/16", kind="dino",
    settings=Settings("vit_small_patch16_224", Preprocess(256, 224, *IMAGENET)),
    size="about 87 MB",
    files=("dino_deitsmall16_pretrain.pth", "dino_deitsmall16_pretrain.safetensors", "dino_vits16.safetensors",
           "vit_small_patch16_224.dino.safetensors", "vit_small_patch16_224.dino/model.safetensors"),
    source="dino_deitsmall16_pretrain.pth of facebookresearch/dino or model.safetensors of "
           "timm/vit_small_patch16_224.dino on Hugging Face")

DINO_S8 = BackboneSpec(
    name="DINO ViT-S/8", kind="dino",
    settings=Settings("vit_small_patch8_224", Preprocess(256, 224, *IMAGENET)),
    size="about 87 MB",
    files=("dino_deitsmall8_pretrain.pth", "dino_deitsmall8_pretrain.safetensors", "dino_vits8.safetensors",
           "vit_small_patch8_224.dino.safetensors", "vit_small_patch8_224.dino/model.safetensors"),
    source="dino_deitsmall8_pretrain.pth of facebookresearch/dino or model.safetensors of "
           "timm/vit_small_patch8_224.dino on Hugging Face")

DINOV2_S14 = BackboneSpec(
    name="DINOv2 ViT-S/14", kind="dinov2",
    settings=Settings("vit_small_patch14_dinov2", Preprocess(256, 224, *IMAGENET, as_transformers=True)),
    size="about 88 MB",
    files=("dinov2-small.safetensors", "dinov2-small/model.safetensors", "dinov2_vits14_pretrain.pth",
           "vit_small_patch14_dinov2.lvd142m.safetensors", "vit_small_patch14_dinov2.lvd142m/model.safetensors"),
    source="model.safetensors of facebook/dinov2-small or of timm/vit_small_patch14_dinov2.lvd142m on Hugging Face, "
           "or dinov2_vits14_pretrain.pth of facebookresearch/dinov2")
