"""Video models, trained on single frames.

Each gets beside its caption what ComfyUI's nodes for it put there: a start picture, a reference, a pose, sound.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from .. import models
from ..architectures import small
from .base import TOKENS, Base, text

Change = Callable[[], tuple[Any, str, Any]]  # (module, attribute, value) to patch

WIDTH, POOLED = models.TOKEN_WIDTH, models.POOLED_WIDTH
SIZE = 8, 8


def frame(channels: int, *size: int, frames: int = 1, seed: int = 60) -> Tensor:
    """A latent of a start picture, a reference, a pose ..."""
    return models.random(1, channels, frames, *(size or SIZE), seed=seed)


def mask(channels: int = 1, value: float = 0.0) -> Tensor:
    """Where a start picture is known (0), as ComfyUI's nodes give it."""
    return torch.full((1, channels, 1, *SIZE), value)


def vision(width: int, tokens: int = 6) -> Any:
    """What ComfyUI's CLIP Vision Encode gives."""
    import comfy.clip_vision

    output = comfy.clip_vision.Output()
    output.image_embeds = models.random(1, width, seed=61)
    output.last_hidden_state = models.random(1, tokens, width, seed=62)
    output.penultimate_hidden_states = models.random(1, tokens, width, seed=63)
    return output


def caption(extras: Callable[[], dict[str, Any]] = dict, width: int = WIDTH, pooled: int = 0) -> Callable[[int], list]:
    """A caption as of `text`, with `extras` beside it; those are made with it, as some are objects of ComfyUI's."""
    return lambda seed: text(width, pooled, **extras())(seed)


def padded(**others: Any) -> Callable[[int], list]:
    """A caption of T5 whose last token is padding."""
    return text(attention_mask=torch.tensor([[1] * (TOKENS - 1) + [0]]), **others)


def smaller(kind: Any, **sizes: int) -> Callable[..., Any]:
    """The class `kind` with other sizes than those that its network asks for."""
    return lambda *args, **given: kind(*args, **{**given, **sizes})


def patched(name: str, config: dict[str, Any], *changes: Change) -> Callable[[torch.dtype], Any]:
    """Makes a model of a class that has sizes written in its code: `changes` are patches for the time of building."""

    def make(dtype: torch.dtype) -> Any:
        with ExitStack() as stack:
            for module, attribute, value in (change() for change in changes):
                stack.enter_context(mock.patch.object(module, attribute, value))
            return small(name, config, dtype=dtype)

    return make


# Wan


def wan(kind: str = "t2v", in_dim: int = 16, **others: Any) -> dict[str, Any]:
    """A Wan's configuration."""
    return {
        "image_model": "wan2.1",
        "model_type": kind,
        "patch_size": (1, 2, 2),
        "in_dim": in_dim,
        "out_dim": 16,
        "dim": 48,
        "ffn_dim": 96,
        "freq_dim": 64,
        "text_dim": WIDTH,
        "num_heads": 2,
        "num_layers": 2,
        "window_size": (-1, -1),
        "qk_norm": True,
        "cross_attn_norm": True,
        "eps": 1e-6,
    } | others


def start_picture(channels: int = 16, mask_channels: int = 1) -> dict[str, Any]:
    """What WanImageToVideo and its like put beside a caption."""
    return {"concat_latent_image": frame(channels), "concat_mask": mask(mask_channels)}


def with_vision(**others: Any) -> dict[str, Any]:
    """What those nodes put beside a caption with the start picture as CLIP sees it."""
    return {"clip_vision_output": vision(WIDTH)} | others


def picture_embedder() -> tuple[Any, str, Any]:
    """Wan's embedding of CLIP's tokens takes 1280 channels."""
    import comfy.ldm.wan.model as module

    kind = module.MLPProj
    return module, "MLPProj", lambda in_dim, *args, **given: kind(WIDTH, *args, **given)


def reference_embedder() -> tuple[Any, str, Any]:
    """The same of WanDancer's reference."""
    import comfy.ldm.wan.model_wandancer as module

    kind = module.MLPProj
    return module, "MLPProj", lambda in_dim, *args, **given: kind(WIDTH, *args, **given)


def humo_audio() -> tuple[Any, str, Any]:
    """HuMo's audio encoder takes 51200 channels."""
    import comfy.ldm.wan.model as module

    return module, "AudioProjModel", smaller(module.AudioProjModel, channels=4, intermediate_dim=32)


def motion_encoder() -> tuple[Any, str, Any]:
    """Animate's encoder of faces has 20 million values, and no layers that an adapter could take."""
    import comfy.ldm.wan.model_animate as module

    class Motion(nn.Module):
        def __init__(self, **_: Any) -> None:
            super().__init__()

        def get_motion(self, picture: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(picture, (2, 4)).mean(1).flatten(1)

    return module, "Generator", Motion


def face_encoder() -> tuple[Any, str, Any]:
    """Animate's encoder of motion has 1024 channels."""
    import comfy.ldm.wan.model_animate as module

    class Faces(module.FaceEncoder):
        def __init__(self, in_dim: int, hidden_dim: int, num_heads: int, operations: Any, **place: Any) -> None:
            nn.Module.__init__(self)
            self.num_heads, self.act = num_heads, nn.SiLU()
            self.conv1_local = module.CausalConv1d(in_dim, 16 * num_heads, operations=operations, **place)
            self.conv2 = module.CausalConv1d(16, 16, stride=2, operations=operations, **place)
            self.conv3 = module.CausalConv1d(16, 16, stride=2, operations=operations, **place)
            self.norm1, self.norm2, self.norm3 = (
                operations.LayerNorm(16, elementwise_affine=False, eps=1e-6, **place) for _ in range(3)
            )
            self.out_proj = operations.Linear(16, hidden_dim, **place)
            self.padding_tokens = nn.Parameter(torch.empty(1, 1, 1, hidden_dim, **place))

    return module, "FaceEncoder", Faces


HUMO_AUDIO = models.random(1, 1, 8, 5, 4, seed=64)  # [1, frames, window, layers, channels]
DANCER = wan("wandancer", 36, audio_inject_layers=[0, 1], music_dim=32, music_heads=2, music_latent_dim=32)


def dancer(fps: float) -> dict[str, Any]:
    """What WanDancerVideo puts beside a caption: two pictures as CLIP sees them and music."""
    return with_vision(
        **start_picture(),
        clip_vision_output_ref=vision(WIDTH),
        fps=fps,
        audio_inject_scale=1.0,
        audio_embed=models.random(1, 6, 35, seed=65),
    )


def seeing(
    name: str, config: dict[str, Any], extras: Callable[[], dict[str, Any]], variant: str = "", *changes: Change
) -> Base:
    """A Wan that takes CLIP's tokens of a picture."""
    return Base(
        name,
        config,
        (16, 1, *SIZE),
        caption(extras),
        "cross",
        variant,
        make=patched(name, config, picture_embedder, *changes),
    )


WAN = [
    Base("WAN21_T2V", wan(), (16, 1, *SIZE), text(), "cross"),
    Base("WAN21_T2V", wan(in_dim=36), (16, 1, *SIZE), text(**start_picture()), "cross", "2.2 I2V"),
    Base("WAN21_T2V", wan(), (16, 1, *SIZE), text(time_dim_concat=frame(16)), "cross", "Phantom"),
    Base("WAN21_CausalAR_T2V", wan(causal_ar=True), (16, 1, *SIZE), text(), "cross"),
    Base("WAN22_T2V", wan("t2v", 48, out_dim=48), (48, 1, *SIZE), text(), "cross"),
    seeing("WAN21_I2V", wan("i2v", 36), dict, "without a picture"),
    seeing("WAN21_I2V", wan("i2v", 36), lambda: with_vision(**start_picture())),
    seeing("WAN21_FunControl2V", wan("i2v", 48), lambda: with_vision(concat_latent_image=frame(32))),
    seeing(
        "WAN21_FunControl2V",
        wan("i2v", 52, in_dim_ref_conv=16),
        lambda: {**start_picture(32, 4), "concat_mask_index": 16, "reference_latents": [frame(16)]},
        "with a reference",
    ),
    Base(
        "WAN21_Vace", wan("vace", vace_in_dim=96, vace_layers=1), (16, 1, *SIZE), text(), "cross", "without a control"
    ),
    Base(
        "WAN21_Vace",
        wan("vace", vace_in_dim=96, vace_layers=2),
        (16, 1, *SIZE),
        text(vace_frames=[frame(32)], vace_mask=[mask(64, 1.0)], vace_strength=[0.9]),
        "cross",
    ),
    seeing(
        "WAN21_Camera",
        wan("camera", 32),
        lambda: with_vision(concat_latent_image=frame(16), camera_conditions=models.random(1, 24, 1, 64, 64, seed=66)),
    ),
    Base(
        "WAN22_Camera",
        wan("camera_2.2", 36),
        (16, 1, *SIZE),
        text(**start_picture(16, 4), camera_conditions=models.random(1, 24, 1, 64, 64, seed=66)),
        "cross",
    ),
    Base(
        "WAN21_HuMo",
        {},
        (16, 1, *SIZE),
        text(reference_latents=[frame(16)], audio_embed=HUMO_AUDIO),
        "cross",
        make=patched("WAN21_HuMo", wan("humo", 36), humo_audio),
    ),
    Base(
        "WAN21_HuMo",
        {},
        (16, 1, *SIZE),
        text(reference_latents=[frame(16)], audio_embed=HUMO_AUDIO),
        "cross",
        "1.7B",
        make=patched("WAN21_HuMo", wan("humo"), humo_audio),
    ),
    Base(
        "WAN22_S2V",
        wan("s2v", audio_dim=16, audio_inject_layers=[0, 1]),
        (16, 1, *SIZE),
        text(
            audio_embed=models.random(1, 25, 16, 4, seed=67),
            reference_latents=[frame(16)],
            reference_motion=frame(16, frames=19),
            control_video=frame(16),
        ),
        "cross",
    ),
    Base(
        "WAN22_S2V",
        wan("s2v", audio_dim=16, audio_inject_layers=[0, 1]),
        (16, 1, *SIZE),
        text(control_video=frame(16)),
        "cross",
        "without sound",
    ),
    seeing(
        "WAN22_Animate",
        wan("animate", 36, num_layers=5, motion_encoder_dim=8),
        lambda: with_vision(
            **start_picture(16, 4), pose_video_latent=frame(16), face_video_pixels=models.random(1, 3, 4, 8, 8, seed=68)
        ),
        "",
        motion_encoder,
        face_encoder,
    ),
    seeing(
        "WAN21_SCAIL",
        wan("scail", 20),
        lambda: with_vision(reference_latents=[frame(16)], pose_video_latent=frame(16, 4, 4)),
    ),
    seeing(
        "WAN21_SCAIL2",
        wan("scail2", 20),
        lambda: with_vision(
            reference_latents=[frame(16)],
            pose_video_latent=frame(16, 4, 4),
            ref_mask_flag=True,
            driving_mask_28ch=models.random(1, 1, 28, 4, 4, seed=69).sign().clamp(min=0),
            ref_mask_28ch=models.random(1, 2, 28, *SIZE, seed=70).sign().clamp(min=0),
        ),
    ),
    seeing("WAN22_WanDancer", DANCER, lambda: dancer(30.0), "", reference_embedder),
    seeing("WAN22_WanDancer", DANCER, lambda: dancer(7.5), "at 7.5 fps", reference_embedder),
]


# HunyuanVideo and Kandinsky 5


def hunyuan(channels: int = 16, **others: Any) -> dict[str, Any]:
    """A HunyuanVideo's configuration."""
    return {
        "image_model": "hunyuan_video",
        "in_channels": channels,
        "patch_size": [1, 2, 2],
        "out_channels": 16,
        "vec_in_dim": POOLED,
        "context_in_dim": WIDTH,
        "hidden_size": 48,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [8, 8, 8],
        "theta": 256,
        "qkv_bias": True,
        "guidance_embed": True,
        "byt5": False,
        "meanflow": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
        "meanflow_sum": False,
    } | others


def hunyuan15(channels: int = 65, **others: Any) -> dict[str, Any]:
    """A HunyuanVideo 1.5's configuration."""
    return (
        hunyuan(
            channels,
            out_channels=32,
            patch_size=[1, 1, 1],
            vec_in_dim=None,
            guidance_embed=False,
            byt5=True,
            use_cond_type_embedding=True,
            vision_in_dim=WIDTH,
            meanflow_sum=True,
        )
        | others
    )


def glyphs() -> tuple[Any, str, Any]:
    """HunyuanVideo 1.5's projection of ByT5's embeddings has seven million values."""
    import comfy.ldm.hunyuan_video.model as module

    return module, "ByT5Mapper", smaller(module.ByT5Mapper, in_dim=WIDTH, out_dim=48, hidden_dim=48)


def upscaled() -> dict[str, Any]:
    """What HunyuanVideo15SuperResolution puts beside a caption."""
    picture = torch.zeros(1, 66, 1, *SIZE)
    picture[:, 33:65], picture[:, 65] = frame(32), 1.0
    return {"pooled_output": None, "concat_latent_image": picture, "noise_augmentation": 0.7}


GUIDANCE = 4.0  # the network takes it times 1000, in its own precision: 4000 is exact in bfloat16, 6000 is not
TALK = {"pooled_output": None, "conditioning_byt5small": models.random(1, 3, WIDTH, seed=71)}  # of a quoted text
KANDINSKY = {
    "image_model": "kandinsky5",
    "model_dim": 48,
    "axes_dims": (8, 8, 8),
    "time_dim": 32,
    "ff_dim": 96,
    "visual_embed_dim": 132,
    "num_text_blocks": 2,
    "num_visual_blocks": 2,
    "in_text_dim": WIDTH,
    "in_text_dim2": POOLED,
}

HUNYUAN = [
    Base("HunyuanVideo", hunyuan(), (16, 1, *SIZE), text(pooled=POOLED, guidance=GUIDANCE), "mmdit"),
    Base(
        "HunyuanVideoI2V",
        hunyuan(33),
        (16, 1, *SIZE),
        text(pooled=POOLED, guidance=GUIDANCE),
        "mmdit",
        "without a picture",
    ),
    Base(
        "HunyuanVideoI2V",
        hunyuan(33),
        (16, 1, *SIZE),
        text(pooled=POOLED, guidance=GUIDANCE, **start_picture()),
        "mmdit",
    ),
    Base(
        "HunyuanVideoI2V",
        hunyuan(33),
        (16, 1, *SIZE),
        text(pooled=POOLED, guidance=GUIDANCE, guiding_frame_index=0),
        "mmdit",
        "v2 (replace)",
    ),
    Base(
        "HunyuanVideoSkyreelsI2V",
        hunyuan(32),
        (16, 1, *SIZE),
        text(pooled=POOLED, guidance=GUIDANCE, concat_latent_image=frame(16)),
        "mmdit",
    ),
    Base(
        "HunyuanVideo15",
        {},
        (32, 1, *SIZE),
        text(pooled_output=None),
        "mmdit",
        make=patched("HunyuanVideo15", hunyuan15(), glyphs),
    ),
    Base(
        "HunyuanVideo15",
        {},
        (32, 1, *SIZE),
        caption(lambda: {**TALK, **start_picture(32), "clip_vision_output": vision(WIDTH)}),
        "mmdit",
        "with a picture and a text",
        make=patched("HunyuanVideo15", hunyuan15(), glyphs),
    ),
    Base(
        "HunyuanVideo15_SR_Distilled",
        {},
        (32, 1, *SIZE),
        caption(upscaled),
        "mmdit",
        make=patched("HunyuanVideo15_SR_Distilled", hunyuan15(98), glyphs),
    ),
    # This one also wants the step that follows: ComfyUI's sampler tells it in the transformer options.
    Base(
        "HunyuanVideo15_SR_Distilled",
        {},
        (32, 1, *SIZE),
        caption(upscaled),
        "mmdit",
        "mean flow",
        make=patched("HunyuanVideo15_SR_Distilled", hunyuan15(98, meanflow=True), glyphs),
    ),
    Base("Kandinsky5", KANDINSKY, (16, 1, *SIZE), text(pooled=POOLED), "cross"),
    Base(
        "Kandinsky5",
        KANDINSKY,
        (16, 1, *SIZE),
        text(pooled=POOLED, time_dim_replace=frame(16), concat_mask=mask()),
        "cross",
        "with a picture",
    ),
]


# LTX


LTX = {
    "in_channels": 128,
    "num_layers": 2,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "cross_attention_dim": 48,
    "caption_channels": WIDTH,
}
LTX2 = LTX | {
    "image_model": "ltxav",
    "audio_in_channels": 128,
    "audio_cross_attention_dim": 24,
    "audio_attention_head_dim": 12,
    "audio_num_attention_heads": 2,
    "causal_temporal_positioning": True,
    "use_middle_indices_grid": True,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "av_ca_timestep_scale_multiplier": 1000.0,
    "connector_attention_head_dim": 24,
    "connector_num_attention_heads": 2,
    "connector_num_layers": 2,
}
LTX23 = LTX2 | {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "cross_attention_adaln": True,
    "apply_gated_attention": True,
    "connector_apply_gated_attention": True,
    "audio_connector_attention_head_dim": 12,
}

OTHERS = [
    Base("LTXV", LTX | {"image_model": "ltxv"}, (128, 1, 4, 4), padded(frame_rate=25), "cross"),
    # LTX-2 wants to know the shapes of its latents, of film and sound: ComfyUI's sampler tells it.
    Base("LTXAV", LTX2, (128, 1, 4, 4), text(unprocessed_ltxav_embeds=True, frame_rate=25.0), "cross"),
    Base("LTXAV", LTX2, (128, 1, 4, 4), text(2 * WIDTH, frame_rate=25.0), "cross", "captions behind the connectors"),
    Base("LTXAV", LTX23, (128, 1, 4, 4), text(48 + 24, unprocessed_ltxav_embeds=True, frame_rate=25.0), "cross", "2.3"),
    Base(
        "GenmoMochi",
        {
            "image_model": "mochi_preview",
            "depth": 2,
            "patch_size": 2,
            "num_heads": 2,
            "hidden_size_x": 24,
            "hidden_size_y": 16,
            "mlp_ratio_x": 512.0,
            "mlp_ratio_y": 4.0,
            "learn_sigma": False,
            "in_channels": 12,
            "qk_norm": True,
            "qkv_bias": False,
            "out_bias": True,
            "attn_drop": 0.0,
            "patch_embed_bias": True,
            "posenc_preserve_area": True,
            "timestep_mlp_bias": True,
            "attend_to_padding": False,
            "timestep_scale": 1000.0,
            "use_t5": True,
            "t5_feat_dim": WIDTH,
            "t5_token_length": 256,
            "rope_theta": 10000.0,
        },
        (12, 1, *SIZE),
        padded(),
        "mmdit",
    ),
]


# Cosmos


def cosmos(channels: int) -> dict[str, Any]:
    """A Cosmos 1's configuration."""
    return {
        "image_model": "cosmos",
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": channels,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 48,
        "block_config": "FA-CA-MLP",
        "concat_padding_mask": True,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": False,
        "pos_emb_interpolation": "crop",
        "block_x_format": "THWBD",
        "affline_emb_norm": True,
        "use_adaln_lora": True,
        "adaln_lora_dim": 8,
        "num_blocks": 2,
        "num_heads": 2,
        "extra_per_block_abs_pos_emb": True,
        "rope_h_extrapolation_ratio": 1.0,
        "rope_w_extrapolation_ratio": 1.0,
        "rope_t_extrapolation_ratio": 2.0,
        "extra_per_block_abs_pos_emb_type": "learnable",
        "crossattn_emb_channels": WIDTH,
    }


OTHERS += [
    Base("CosmosT2V", cosmos(16), (16, 1, *SIZE), padded(), "cross"),
    Base("CosmosI2V", cosmos(17), (16, 1, *SIZE), padded(), "cross"),
]


# CogVideoX


def cog(channels: int, **others: Any) -> dict[str, Any]:
    """A CogVideoX's configuration."""
    return {
        "image_model": "cogvideox",
        "num_attention_heads": 3,
        "attention_head_dim": 16,
        "time_embed_dim": 32,
        "num_layers": 2,
        "in_channels": channels,
        "patch_size": 2,
        "text_embed_dim": WIDTH,
        "use_learned_positional_embeddings": False,
        "use_rotary_positional_embeddings": True,
    } | others


COG15 = {"patch_size_t": 2, "ofs_embed_dim": 32}
LEARNED = {
    "use_learned_positional_embeddings": True,
    "use_rotary_positional_embeddings": False,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 1,
}

OTHERS += [
    Base("CogVideoX_T2V", cog(16), (16, 1, *SIZE), text(), "mmdit"),
    Base("CogVideoX_T2V", cog(16, patch_size_t=2), (16, 1, *SIZE), text(), "mmdit", "1.5"),
    Base("CogVideoX_I2V", cog(32, **LEARNED), (16, 1, *SIZE), text(), "mmdit", "without a picture"),
    Base("CogVideoX_I2V", cog(32, **COG15), (16, 1, *SIZE), text(concat_latent_image=frame(16)), "mmdit", "1.5"),
    Base("CogVideoX_Inpaint", cog(48, patch_size_t=2), (16, 1, *SIZE), text(concat_latent_image=frame(32)), "mmdit"),
]


# Stable Video Diffusion: it has no text, so a caption is a picture as CLIP sees it.


SVD_EXTRA = {"num_heads": -1, "num_head_channels": 16, "attn_precision": torch.float32}


def svd(adm: int) -> dict[str, Any]:
    """A Stable Video Diffusion's configuration."""
    return models.SD15_CONFIG | {
        "in_channels": 8,
        "num_classes": "sequential",
        "adm_in_channels": adm,
        "use_linear_in_transformer": True,
        "use_temporal_attention": True,
        "use_temporal_resblock": True,
        "extra_ff_mix_layer": True,
        "use_spatial_context": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
        "disable_temporal_crossattention": False,
    }


def start(**others: Any) -> Callable[[int], list]:
    """A caption of SVD_img2vid_Conditioning: one token, and the picture itself."""
    return lambda seed: [
        [
            models.random(1, 1, WIDTH, seed=seed),
            {"concat_latent_image": models.random(1, 4, *SIZE, seed=seed + 1), **others},
        ]
    ]


OTHERS += [
    Base(
        "SVD_img2vid",
        svd(768),
        (4, *SIZE),
        start(motion_bucket_id=127, fps=6, augmentation_level=0.0),
        "unet",
        extra=SVD_EXTRA,
    ),
    Base("SV3D_u", svd(256), (4, *SIZE), start(), "unet", extra=SVD_EXTRA),
    Base("SV3D_p", svd(1280), (4, *SIZE), start(elevation=[10.0], azimuth=[0.0]), "unet", extra=SVD_EXTRA),
]

BASES: list[Base] = [*WAN, *HUNYUAN, *OTHERS]
