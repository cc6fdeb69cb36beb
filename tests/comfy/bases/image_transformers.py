"""Transformers of pictures, and the video models that are used on single frames, after Flux: small, with their text."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from .. import architectures, models
from ..architectures import small
from .base import TOKENS, Base, text

WIDTH = models.TOKEN_WIDTH
POOLED = models.POOLED_WIDTH
FRAME = (16, 1, 8, 8)  # of the VAEs that also encode videos
MASK = torch.ones(1, TOKENS, dtype=torch.long)  # LLM encoders that return it: Gemma, Qwen, Ministral


def resized(base: str, made: Callable[[], Any], **sizes: Any) -> Callable[[torch.dtype], Any]:
    """The small model of architectures.py with other sizes: the latent channels of the base, two of each block."""

    def make(dtype: torch.dtype) -> Any:
        return small(base, made().model.model_config.unet_config | sizes, dtype=dtype)

    return make


def reference(*shape: int) -> list[torch.Tensor]:
    """What the node ReferenceLatent puts beside a caption: a picture of another shape than the trained ones."""
    return [models.random(1, *shape, seed=31)]


# Lumina 2 and its relatives. Z-Image's modulation is 256 wide, so its blocks are no narrower; little else is left of
# them here.

Z_IMAGE_SIZES = {"n_layers": 2, "ffn_dim_multiplier": 0.25}
Z_IMAGE_PIXEL = {
    "image_model": "zimage_pixel",
    "in_channels": 3,
    "patch_size": 4,
    "decoder_in_channels": 48,
    "decoder_hidden_size": 32,
    "decoder_num_res_blocks": 2,
    "decoder_max_freqs": 8,
}
# What the node TextEncodeZImageOmni puts beside a caption for one picture, with an image encoder. It puts a second text
# there as well, with which ComfyUI's network takes no batches.
OMNI = {
    "attention_mask": MASK,
    "reference_latents": reference(16, 4, 6),
    "reference_latents_text_embeds": [models.random(1, 3, WIDTH, seed=35)],
    "clip_vision_outputs": [
        SimpleNamespace(image_sizes=[(3, 32, 32)], last_hidden_state=models.random(1, 4, WIDTH, seed=36))
    ],
}
BOOGU = {
    "image_model": "boogu",
    "hidden_size": 72,
    "num_layers": 2,
    "num_double_stream_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 3,
    "num_kv_heads": 1,
    "multiple_of": 8,
    "axes_dim_rope": (8, 8, 8),
    "instruction_feat_dim": WIDTH,
}
IDEOGRAM = {"image_model": "ideogram4", "in_channels": 128, "num_layers": 2}
IDEOGRAM_EXTRA = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "intermediate_size": 128,
    "adaln_dim": 32,
    "llm_features_dim": WIDTH,
    "rope_theta": 5000000,
    "mrope_section": [6, 5, 5],
    "norm_eps": 1e-5,
}
LUMINA = [
    Base(
        "Lumina2",
        {},
        (16, 8, 8),
        text(attention_mask=MASK),
        "mmdit",
        make=resized("Lumina2", architectures.comfyui_lumina2, in_channels=16),
    ),
    Base(
        "Lumina2",
        {},
        (16, 8, 8),
        text(pooled=POOLED, attention_mask=MASK),
        "mmdit",
        "NewBie",
        make=resized("Lumina2", architectures.comfyui_lumina2, in_channels=16, clip_text_dim=POOLED),
    ),
    Base(
        "ZImage",
        {},
        (16, 8, 8),
        text(attention_mask=MASK),
        "mmdit",
        make=resized("ZImage", architectures.comfyui_z_image, in_channels=16, **Z_IMAGE_SIZES),
    ),
    Base(
        "ZImage",
        {},
        (16, 8, 8),
        text(**OMNI),
        "mmdit",
        "omni",
        make=resized("ZImage", architectures.comfyui_z_image, in_channels=16, siglip_feat_dim=WIDTH, **Z_IMAGE_SIZES),
    ),
    Base(
        "ZImagePixelSpace",
        {},
        (3, 32, 32),
        text(attention_mask=MASK),
        "pixel",
        coarse=True,
        make=resized("ZImagePixelSpace", architectures.comfyui_z_image, **Z_IMAGE_SIZES, **Z_IMAGE_PIXEL),
    ),
    Base(
        "Omnigen2",
        {},
        (16, 8, 8),
        text(attention_mask=MASK),
        "mmdit",
        make=resized("Omnigen2", architectures.comfyui_omnigen2, in_channels=16),
    ),
    Base(
        "Omnigen2",
        {},
        (16, 8, 8),
        text(attention_mask=MASK, reference_latents=reference(16, 4, 6)),
        "mmdit",
        "edit",
        make=resized("Omnigen2", architectures.comfyui_omnigen2, in_channels=16),
    ),
    Base("Boogu", BOOGU, (16, 8, 8), text(attention_mask=MASK), "mmdit"),
    Base("Boogu", BOOGU, (16, 8, 8), text(attention_mask=MASK, reference_latents=reference(16, 4, 6)), "mmdit", "edit"),
    Base(
        "Ideogram4",
        IDEOGRAM,
        (128, 4, 4),
        text(attention_mask=MASK),
        "mmdit",
        extra=IDEOGRAM_EXTRA,
        coarse_once=True,
    ),
]

# Pixels in, pixels out

PIXEL_DIT = {
    "image_model": "pixeldit_t2i",
    "num_groups": 4,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 32,
    "pixel_num_groups": 2,
    "patch_depth": 2,
    "patch_size": 8,
    "txt_embed_dim": WIDTH,
}
PID = PIXEL_DIT | {
    "image_model": "pid",
    "lq_hidden_dim": 32,
    "lq_num_res_blocks": 1,
    "lq_interval": 1,
    "lq_latent_channels": 16,
    "latent_spatial_down_factor": 8,
}
PID_1_5 = PID | {
    "lq_latent_unpatchify_factor": 1,
    "lq_conv_padding_mode": "replicate",
    "lq_gate_per_token": True,
    "pit_lq_inject": True,
    "rope_ref_h": 2048,
    "rope_ref_w": 2048,
}
# The node PiDConditioning puts the latent of the picture, which has a quarter of its size, beside the caption.
PID_TEXT = text(attention_mask=MASK, lq_latent=models.random(1, 16, 2, 2, seed=32), degrade_sigma=torch.tensor([0.0]))
PIXELS = [
    Base("PixelDiTT2I", PIXEL_DIT, (3, 32, 32), text(attention_mask=MASK), "pixel"),
    Base("PiD", PID, (3, 64, 64), PID_TEXT, "pixel"),
    Base("PiD", PID_1_5, (3, 64, 64), PID_TEXT, "pixel", "1.5"),
]

# Qwen-Image and what is built like it

KREA = {
    "image_model": "krea2",
    "features": 64,
    "channels": 16,
    "patch": 2,
    "layers": 2,
    "heads": 2,
    "kvheads": 1,
    "txtlayers": 2,
    "txtdim": WIDTH // 2,
    "txtheads": 2,
    "txtkvheads": 2,
}
MAGE = {
    "image_model": "mage_flow",
    "in_channels": 128,
    "num_layers": 2,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (8, 8, 8),
}
JOY = {
    "image_model": "joyimage",
    "in_channels": 16,
    "hidden_size": 64,
    "patch_size": [1, 2, 2],
    "num_layers": 2,
    "num_attention_heads": 2,
    "text_dim": WIDTH,
}
JOY_EXTRA = {"theta": 10000, "rope_dim_list": [8, 12, 12]}
ERNIE = {
    "image_model": "ernie",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_layers": 2,
    "ffn_hidden_size": 128,
    "text_in_dim": WIDTH,
    "rope_axes_dim": (8, 12, 12),
}


def qwen(variant: str, latent: tuple[int, ...], conditioning: Callable[[int], list], **sizes: Any) -> Base:
    """Qwen-Image. Its encoder leaves out a mask without zeros."""
    made = resized("QwenImage", architectures.comfyui_qwen_image, in_channels=64, out_channels=16, **sizes)
    return Base("QwenImage", {}, latent, conditioning, "mmdit", variant, make=made)


QWEN = [
    qwen("", FRAME, text()),
    qwen("Edit", FRAME, text(reference_latents=reference(16, 1, 4, 6))),
    qwen("Edit 2511", FRAME, text(reference_latents=reference(16, 1, 4, 6)), default_ref_method="index_timestep_zero"),
    qwen(
        "Layered",
        (16, 3, 4, 4),
        text(reference_latents=reference(16, 1, 4, 4)),
        default_ref_method="negative_index",
        use_additional_t_cond=True,
    ),
    Base("Krea2", KREA, FRAME, text(), "mmdit"),
    Base(
        "Krea2",
        KREA,
        FRAME,
        text(reference_latents=reference(16, 1, 4, 6), reference_latents_method="index_timestep_zero"),
        "mmdit",
        "edit",
    ),
    Base("MageFlow", MAGE, (128, 4, 4), text(), "mmdit"),
    Base("MageFlow", MAGE, (128, 4, 4), text(reference_latents=reference(128, 2, 3)), "mmdit", "edit"),
    Base("JoyImage", JOY, FRAME, text(attention_mask=MASK), "mmdit", extra=JOY_EXTRA),
    Base(
        "JoyImage",
        JOY,
        FRAME,
        text(attention_mask=MASK, reference_latents=reference(16, 1, 4, 6)),
        "mmdit",
        "edit",
        extra=JOY_EXTRA,
    ),
    Base("ErnieImage", ERNIE, (128, 4, 4), text(attention_mask=MASK), "mmdit"),
]

# Hunyuan Image and Kandinsky 5

HUNYUAN = {
    "image_model": "hunyuan_video",
    "in_channels": 64,
    "patch_size": [1, 1],
    "out_channels": 64,
    "vec_in_dim": None,
    "axes_dim": [16, 16],
    "meanflow": False,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "theta": 256,
    "qkv_bias": True,
    "byt5": False,
    "guidance_embed": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
REFINER = HUNYUAN | {"in_channels": 128, "patch_size": [1, 1, 1], "axes_dim": [8, 12, 12], "guidance_embed": True}
KANDINSKY = {
    "image_model": "kandinsky5",
    "model_dim": 64,
    "axes_dims": (8, 12, 12),
    "rope_scale_factor": (1.0, 1.0, 1.0),
    "time_dim": 32,
    "ff_dim": 128,
    "visual_embed_dim": 64,
    "num_text_blocks": 2,
    "num_visual_blocks": 2,
    "in_text_dim": WIDTH,
    "in_text_dim2": POOLED,
}
HUNYUAN_AND_KANDINSKY = [
    Base("HunyuanImage21", HUNYUAN, (64, 4, 4), text(), "mmdit"),
    # A caption with quoted words; the sizes of that encoder's adapter are fixed at seven million values.
    Base(
        "HunyuanImage21",
        HUNYUAN | {"byt5": True},
        (64, 4, 4),
        text(conditioning_byt5small=models.random(1, 3, 1472, seed=33)),
        "mmdit",
        "quoted words",
    ),
    # Looks its noise level up in the sampler's list, for the next one: transformer_options has to hold both.
    Base(
        "HunyuanImage21",
        HUNYUAN | {"guidance_embed": True, "meanflow": True},
        (64, 4, 4),
        text(guidance=3.5),
        "mmdit",
        "distilled",
    ),
    # The node HunyuanRefinerLatent puts the picture that is to be refined beside the caption. The VAE's 32 channels are
    # 64 for the network: frames are taken two by two.
    Base(
        "HunyuanImage21Refiner",
        REFINER,
        (32, 1, 4, 4),
        text(concat_latent_image=models.random(1, 32, 1, 4, 4, seed=34), noise_augmentation=0.1),
        "mmdit",
    ),
    Base("Kandinsky5Image", KANDINSKY, (16, 8, 8), text(pooled=POOLED), "cross"),
]

# Cosmos Predict 2 and Anima

COSMOS = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "concat_padding_mask": True,
    "crossattn_emb_channels": WIDTH,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}
COSMOS_VIDEO = COSMOS | {"in_channels": 17, "rope_h_extrapolation_ratio": 3.0, "rope_w_extrapolation_ratio": 3.0}


def anima(dtype: torch.dtype) -> Any:
    """Anima with a small adapter of its text encoder: that has no sizes in the configuration, only a vocabulary."""
    import comfy.ldm.anima.model as core

    original = core.LLMAdapter

    def adapter(**place: Any) -> Any:
        return original(source_dim=WIDTH, target_dim=WIDTH, model_dim=WIDTH, num_layers=2, num_heads=2, **place)

    with mock.patch.object(core, "LLMAdapter", adapter):
        return small("Anima", COSMOS | {"image_model": "anima"}, dtype=dtype)


COSMOS_AND_ANIMA = [
    Base("CosmosT2IPredict2", COSMOS, FRAME, text(attention_mask=MASK), "cross"),
    Base("CosmosI2VPredict2", COSMOS_VIDEO, FRAME, text(attention_mask=MASK), "cross"),
    Base(
        "Anima",
        {},
        FRAME,
        text(
            attention_mask=MASK,
            t5xxl_ids=torch.tensor([3, 500, 31000, 1], dtype=torch.int),
            t5xxl_weights=torch.tensor([1.0, 1.0, 1.2, 1.0]),
        ),
        "cross",
        make=anima,
    ),
]

BASES: list[Base] = [*LUMINA, *PIXELS, *QWEN, *HUNYUAN_AND_KANDINSKY, *COSMOS_AND_ANIMA]
