"""The backbones with their preprocessing.

CLIP and DINOv2 as DreamBench++ reads them (transformers), DINO as torch.hub's users do (torchvision).
"""

from __future__ import annotations

from dataclasses import replace

from ..backbones import BackboneSpec, EncoderSettings, HubFile
from ..backbones.lpips import AS_THEY_ARE
from ..backbones.siglip2 import tokenizer_of
from ..preprocessing import HALF, IMAGENET, OPENAI_CLIP, UNCHANGED, Preprocess

# OpenAI's weights were trained with QuickGELU; the plain "ViT-B-32" architecture gives other features.
CLIP_B32 = BackboneSpec(
    name="CLIP ViT-B/32 (OpenAI)",
    kind="clip",
    settings=EncoderSettings("ViT-B-32-quickgelu", Preprocess(224, 224, *OPENAI_CLIP, as_transformers=True)),
    size="about 605 MB",
    licence="MIT",
    files=(
        "clip-vit-base-patch32.safetensors",
        "clip-vit-base-patch32/model.safetensors",
        "vit_base_patch32_clip_224.openai.safetensors",
        "vit_base_patch32_clip_224.openai/open_clip_model.safetensors",
        "ViT-B-32.pt",
    ),
    source="open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai or model.safetensors of "
    "openai/clip-vit-base-patch32 on Hugging Face, or OpenAI's own ViT-B-32.pt",
    hub=(
        HubFile("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"),
        HubFile("openai/clip-vit-base-patch32", "model.safetensors"),
        HubFile("openai/clip-vit-base-patch32", "pytorch_model.bin"),
    ),
)

# The same weights with torchvision's margins, as OpenAI's own preprocessing has them.
CLIP_B32_TORCHVISION = replace(
    CLIP_B32, settings=EncoderSettings("ViT-B-32-quickgelu", Preprocess(224, 224, *OPENAI_CLIP))
)

DINO_S16 = BackboneSpec(
    name="DINO ViT-S/16",
    kind="dino",
    settings=EncoderSettings("vit_small_patch16_224", Preprocess(256, 224, *IMAGENET)),
    size="about 87 MB",
    licence="Apache-2.0",
    files=(
        "dino_deitsmall16_pretrain.pth",
        "dino_deitsmall16_pretrain.safetensors",
        "dino_vits16.safetensors",
        "vit_small_patch16_224.dino.safetensors",
        "vit_small_patch16_224.dino/model.safetensors",
    ),
    source="model.safetensors of timm/vit_small_patch16_224.dino on Hugging Face, or dino_deitsmall16_pretrain.pth of "
    "facebookresearch/dino",
    hub=(
        HubFile("timm/vit_small_patch16_224.dino", "model.safetensors"),
        HubFile("facebook/dino-vits16", "pytorch_model.bin"),
    ),
)

DINO_S8 = BackboneSpec(
    name="DINO ViT-S/8",
    kind="dino",
    settings=EncoderSettings("vit_small_patch8_224", Preprocess(256, 224, *IMAGENET)),
    size="about 87 MB",
    licence="Apache-2.0",
    files=(
        "dino_deitsmall8_pretrain.pth",
        "dino_deitsmall8_pretrain.safetensors",
        "dino_vits8.safetensors",
        "vit_small_patch8_224.dino.safetensors",
        "vit_small_patch8_224.dino/model.safetensors",
    ),
    source="model.safetensors of timm/vit_small_patch8_224.dino on Hugging Face, or dino_deitsmall8_pretrain.pth of "
    "facebookresearch/dino",
    hub=(
        HubFile("timm/vit_small_patch8_224.dino", "model.safetensors"),
        HubFile("facebook/dino-vits8", "pytorch_model.bin"),
    ),
)

DINOV2_S14 = BackboneSpec(
    name="DINOv2 ViT-S/14",
    kind="dinov2",
    settings=EncoderSettings("vit_small_patch14_dinov2", Preprocess(256, 224, *IMAGENET, as_transformers=True)),
    size="about 88 MB",
    licence="Apache-2.0",
    files=(
        "dinov2-small.safetensors",
        "dinov2-small/model.safetensors",
        "dinov2_vits14_pretrain.pth",
        "vit_small_patch14_dinov2.lvd142m.safetensors",
        "vit_small_patch14_dinov2.lvd142m/model.safetensors",
    ),
    source="model.safetensors of facebook/dinov2-small or of timm/vit_small_patch14_dinov2.lvd142m on Hugging Face, "
    "or dinov2_vits14_pretrain.pth of facebookresearch/dinov2",
    hub=(
        HubFile("facebook/dinov2-small", "model.safetensors"),
        HubFile("timm/vit_small_patch14_dinov2.lvd142m", "model.safetensors"),
    ),
)

DINOV2_B14 = BackboneSpec(
    name="DINOv2 ViT-B/14",
    kind="dinov2",
    settings=EncoderSettings("vit_base_patch14_dinov2", Preprocess(256, 224, *IMAGENET, as_transformers=True)),
    size="about 346 MB",
    licence="Apache-2.0",
    files=(
        "dinov2-base.safetensors",
        "dinov2-base/model.safetensors",
        "dinov2_vitb14_pretrain.pth",
        "vit_base_patch14_dinov2.lvd142m.safetensors",
        "vit_base_patch14_dinov2.lvd142m/model.safetensors",
    ),
    source="model.safetensors of facebook/dinov2-base or of timm/vit_base_patch14_dinov2.lvd142m on Hugging Face, "
    "or dinov2_vitb14_pretrain.pth of facebookresearch/dinov2",
    hub=(
        HubFile("facebook/dinov2-base", "model.safetensors"),
        HubFile("timm/vit_base_patch14_dinov2.lvd142m", "model.safetensors"),
    ),
)

# torchvision's AlexNet, whose file name begins with its checksum; the heads of LPIPS come with the lpips package.
ALEXNET = BackboneSpec(
    name="LPIPS (AlexNet)",
    kind="lpips",
    settings=EncoderSettings("alexnet", AS_THEY_ARE),
    size="about 233 MB",
    licence="BSD-3-Clause",
    files=("alexnet-owt-7be5be79.pth",),
    source="alexnet-owt-7be5be79.pth of download.pytorch.org/models",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be79",
)

# As its authors' processor in transformers prepares pictures: the whole picture, squeezed to a square.
DINOV3_B16 = BackboneSpec(
    name="DINOv3 ViT-B/16",
    kind="dinov3",
    settings=EncoderSettings(
        "vit_base_patch16_dinov3_qkvb",
        Preprocess(224, 224, *IMAGENET, interpolation="bilinear", square=True, in_floats=True),
    ),
    size="about 343 MB",
    licence="DINOv3 License, which names uses that it forbids",
    files=(
        "dinov3-vitb16.safetensors",
        "dinov3-vitb16-pretrain-lvd1689m/model.safetensors",
        "vit_base_patch16_dinov3.lvd1689m.safetensors",
        "vit_base_patch16_dinov3.lvd1689m/model.safetensors",
    ),
    source="model.safetensors of timm/vit_base_patch16_dinov3.lvd1689m or of facebook/dinov3-vitb16-pretrain-lvd1689m "
    "on Hugging Face",
    hub=(
        HubFile("timm/vit_base_patch16_dinov3.lvd1689m", "model.safetensors"),
        HubFile("facebook/dinov3-vitb16-pretrain-lvd1689m", "model.safetensors"),
    ),
)

SIGLIP2_B16 = BackboneSpec(
    name="SigLIP2 ViT-B/16",
    kind="siglip2",
    settings=EncoderSettings("ViT-B-16-SigLIP2", Preprocess(224, 224, *HALF, interpolation="bilinear", square=True)),
    size="about 1.5 GB",
    licence="Apache-2.0",
    files=(
        "siglip2-base-patch16-224.safetensors",
        "siglip2-base-patch16-224/model.safetensors",
        "ViT-B-16-SigLIP2.safetensors",
        "ViT-B-16-SigLIP2/open_clip_model.safetensors",
    ),
    source="model.safetensors of google/siglip2-base-patch16-224 or open_clip_model.safetensors of "
    "timm/ViT-B-16-SigLIP2 on Hugging Face",
    hub=(
        HubFile("google/siglip2-base-patch16-224", "model.safetensors"),
        HubFile("timm/ViT-B-16-SigLIP2", "open_clip_model.safetensors"),
    ),
    beside=(tokenizer_of("google/siglip2-base-patch16-224"),),
)

DREAMSIM = BackboneSpec(
    name="DreamSim (ensemble)",
    kind="dreamsim",
    settings=EncoderSettings("ensemble of ViT-B/16", Preprocess(224, 224, *UNCHANGED, square=True)),
    size="about 1 GB",
    licence="MIT",
    files=("dreamsim_ensemble.safetensors",),
    source="dreamsim_ensemble_checkpoint.zip from the releases of ssundaram21/dreamsim on GitHub, and merge it with "
    "`python -m scoring merge` (docs/scoring.md)",
)

PICKSCORE = BackboneSpec(
    name="PickScore v1 (CLIP ViT-H/14)",
    kind="pickscore",
    settings=EncoderSettings("ViT-H-14", Preprocess(224, 224, *OPENAI_CLIP, as_transformers=True)),
    size="about 3.9 GB",
    licence="MIT",
    files=("PickScore_v1.safetensors", "PickScore_v1/model.safetensors"),
    source="model.safetensors of yuvalkirstain/PickScore_v1 on Hugging Face",
    hub=(HubFile("yuvalkirstain/PickScore_v1", "model.safetensors"),),
)

# The authors advise squares of 320 px, squeezed.
SSCD = BackboneSpec(
    name="SSCD ResNet-50 (disc_mixup)",
    kind="sscd",
    settings=EncoderSettings("resnet50", Preprocess(320, 320, *IMAGENET, interpolation="bilinear", square=True)),
    size="about 98 MB",
    licence="MIT",
    files=("sscd_disc_mixup.torchvision.pt", "sscd_disc_mixup.torchvision.safetensors"),
    source="sscd_disc_mixup.torchvision.pt of dl.fbaipublicfiles.com/sscd-copy-detection",
)
