"""Small bases of Stable Diffusion's family, of Flux's, and of the image transformers around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import architectures, models
from ..architectures import HIDREAM, SD21_CONFIG, T5_WIDTH, WIDTH, sd3, small
from .base import TOKENS, Base, text

POOLED = models.POOLED_WIDTH


def made(
    name: str, config: dict[str, Any], extra: dict[str, Any], state: Callable[[], dict[str, Tensor]]
) -> Callable[[torch.dtype], Any]:
    """A `make` of a class that looks at tensors of the file beside the network's."""

    def make(dtype: torch.dtype) -> Any:
        import comfy.model_patcher
        import comfy.supported_models

        kind = getattr(comfy.supported_models, name)
        chosen = type("Small", (kind,), {"unet_config": {}, "unet_extra_config": extra})(dict(config))
        chosen.set_inference_dtype(dtype, None)
        with models.with_all_weights():
            model = chosen.get_model(state(), "", device=models.CPU)
        model.eval()
        return comfy.model_patcher.ModelPatcher(model, load_device=models.DEVICE, offload_device=models.CPU)

    return make


def latent(*shape: int, seed: int = 11) -> Tensor:
    """A LATENT's tensor that a node puts beside a caption: a picture to change, to continue, to look at."""
    return models.random(1, *shape, seed=seed)


def mask(size: int) -> Tensor:
    """A picture's mask [1, 1, size, size] with its left half to be painted anew."""
    return (torch.arange(size) < size // 2).float().expand(1, 1, size, size).contiguous()


# ---------------------------------------------------------------------------------------------- Stable Diffusion's UNet

HEADS = {"num_heads": 2, "num_head_channels": -1}
HEAD_WIDTH = {"num_heads": -1, "num_head_channels": 32}
SD20_EXTRA = HEAD_WIDTH | {"attn_precision": torch.float32}
INPAINTING = {"concat_latent_image": latent(4, 8, 8), "concat_mask": mask(64)}
SEQUENTIAL = {"num_classes": "sequential", "use_linear_in_transformer": True}
SIZES = 6 * 256  # what SDXL embeds of the picture's sizes beside the pooled caption; the refiner has 5
# Three levels, as the small SDXLs differ in how deep each is. Of latents below 16 the groups of the norms in the middle
# are so small that rounding is seen in the gradients.
THREE = models.SDXL_CONFIG | {"num_res_blocks": [1, 1, 1], "channel_mult": [1, 1, 2]}


def three(down: list[int], up: list[int], middle: int, blocks: int = 1) -> dict[str, Any]:
    """An SDXL of three levels with transformers of these depths."""
    return THREE | {
        "num_res_blocks": [blocks] * 3,
        "transformer_depth": down,
        "transformer_depth_output": up,
        "transformer_depth_middle": middle,
    }


def unclip(width: int, pooled: int = 0) -> Callable[[int], list]:
    """A caption with the CLIP vision embedding of a picture, as unCLIPConditioning puts it there."""

    def make(seed: int) -> list:
        import comfy.clip_vision

        seen = comfy.clip_vision.Output()
        seen.image_embeds = models.random(1, width, seed=seed + 2)
        given = {"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.1}
        return text(pooled=pooled, unclip_conditioning=[given])(seed)

    return make


def unclip_base(name: str, width: int) -> Base:
    """SD 2.1 unCLIP: the embedding and its noise level, each of this width."""
    config = SD21_CONFIG | SEQUENTIAL | {"adm_in_channels": 2 * width}
    return Base(
        name,
        config,
        (4, 8, 8),
        unclip(width),
        "unet",
        make=lambda dtype: small(name, config, SD20_EXTRA, v_prediction=True, dtype=dtype),
    )


def zero123(seed: int) -> list:
    """What StableZero123_Conditioning gives: one token of CLIP's pooled picture and the camera, and the picture."""
    return [[models.random(1, 1, 768 + 4, seed=seed), {"concat_latent_image": latent(4, 8, 8)}]]


def projection() -> dict[str, Tensor]:
    """Zero123's layer from that token to the width of the captions."""
    weight = models.random(WIDTH, 768 + 4, seed=12) / 28
    return {"cc_projection.weight": weight, "cc_projection.bias": torch.zeros(WIDTH)}


IMAGE_CHANNELS = {"in_channels": 8}
UNETS = [
    Base("SD15", models.SD15_CONFIG, (4, 8, 8), text(), "unet", extra=HEADS),
    Base(
        "SD15",
        models.SD15_CONFIG | {"in_channels": 9},
        (4, 8, 8),
        text(**INPAINTING),
        "unet",
        "inpainting",
        extra=HEADS,
    ),
    Base(
        "SD15_instructpix2pix",
        models.SD15_CONFIG | IMAGE_CHANNELS,
        (4, 8, 8),
        text(concat_latent_image=latent(4, 8, 8)),
        "unet",
        extra=HEADS,
    ),
    Base(
        "Stable_Zero123",
        models.SD15_CONFIG | IMAGE_CHANNELS,
        (4, 8, 8),
        zero123,
        "unet",
        make=made("Stable_Zero123", models.SD15_CONFIG | IMAGE_CHANNELS, HEADS, projection),
    ),
    Base("SD20", SD21_CONFIG, (4, 8, 8), text(), "unet", extra=SD20_EXTRA),
    Base(
        "SD20",
        SD21_CONFIG,
        (4, 8, 8),
        text(),
        "unet",
        "v-prediction",
        make=lambda dtype: small("SD20", SD21_CONFIG, SD20_EXTRA, v_prediction=True, dtype=dtype),
    ),
    unclip_base("SD21UnclipL", 768),
    unclip_base("SD21UnclipH", 1024),
    Base("SDXL", models.SDXL_CONFIG, (4, 8, 8), text(pooled=POOLED), "unet", extra=HEAD_WIDTH),
    Base(
        "SDXL",
        models.SDXL_CONFIG,
        (4, 8, 8),
        text(pooled=POOLED),
        "unet",
        "EDM",
        make=made(
            "SDXL",
            models.SDXL_CONFIG,
            HEAD_WIDTH,
            lambda: {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)},
        ),
    ),
    Base(
        "SDXL",
        models.SDXL_CONFIG,
        (4, 8, 8),
        text(pooled=POOLED),
        "unet",
        "v-prediction EDM",
        make=made("SDXL", models.SDXL_CONFIG, HEAD_WIDTH, lambda: {"edm_vpred.sigma_max": torch.tensor(120.0)}),
    ),
    Base(
        "SDXL_instructpix2pix",
        models.SDXL_CONFIG | IMAGE_CHANNELS,
        (4, 8, 8),
        text(pooled=POOLED, concat_latent_image=latent(4, 8, 8)),
        "unet",
        extra=HEAD_WIDTH,
    ),
    Base(
        "SDXLRefiner",
        models.SDXL_CONFIG
        | {
            "adm_in_channels": POOLED + 5 * 256,
            "transformer_depth": [0, 1],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [0, 0, 1, 1],
        },
        (4, 8, 8),
        text(pooled=POOLED),
        "unet",
        extra=HEAD_WIDTH,
    ),
    Base(
        "SSD1B",
        three([0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 1, 2, 1, 1], -1, 2),
        (4, 16, 16),
        text(pooled=POOLED),
        "unet",
        extra=HEAD_WIDTH,
    ),
    Base(
        "Segmind_Vega",
        three([0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 1], -1, 2),
        (4, 16, 16),
        text(pooled=POOLED),
        "unet",
        extra=HEAD_WIDTH,
    ),
    Base(
        "KOALA_700M",
        three([0, 1, 2], [0, 0, 1, 1, 2, 2], -2),
        (4, 16, 16),
        text(pooled=POOLED),
        "unet",
        extra=HEAD_WIDTH,
    ),
    Base(
        "KOALA_1B", three([0, 1, 2], [0, 0, 1, 1, 2, 2], 2), (4, 16, 16), text(pooled=POOLED), "unet", extra=HEAD_WIDTH
    ),
    Base(
        "SD_X4Upscaler",
        SD21_CONFIG | {"in_channels": 7},
        (4, 8, 8),
        text(concat_image=latent(3, 8, 8), noise_augmentation=0.1),
        "unet",
        extra=HEADS | {"num_classes": 1000, "disable_self_attentions": [True, False]},
    ),
]

# -------------------------------------------------------------------------------------------------- Stable Cascade

STAGE_C = {
    "stable_cascade_stage": "c",
    "c_cond": 48,
    "c_hidden": [48, 48],
    "nhead": [2, 2],
    "blocks": [[1, 2], [2, 1]],
    "c_clip_text": WIDTH,
    "c_clip_text_pooled": POOLED,
}
CASCADE = [
    Base("Stable_Cascade_C", STAGE_C, (16, 8, 8), text(pooled=POOLED), "cross"),
    Base("Stable_Cascade_C", STAGE_C, (16, 8, 8), unclip(768, POOLED), "cross", "unCLIP"),
    Base(
        "Stable_Cascade_B",
        {
            "stable_cascade_stage": "b",
            "c_cond": 48,
            "c_hidden": [16, 32, 48, 48],
            "nhead": [-1, -1, 2, 2],
            "blocks": [[1, 1, 2, 1], [1, 2, 1, 1]],
            "block_repeat": [[1, 1, 1, 1], [2, 2, 2, 2]],
            "c_clip": POOLED,
        },
        (4, 32, 32),
        text(pooled=POOLED, stable_cascade_prior=latent(16, 4, 4)),
        "cross",
    ),
]

# ------------------------------------------------------------------------ transformers with a text and a picture stream


# Of head size 24 = 3 x 8.
FLUX = {
    "image_model": "flux",
    "guidance_embed": True,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": POOLED,
    "context_in_dim": WIDTH,
    "hidden_size": 48,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 8, 8],
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
    "yak_mlp": False,
    "txt_norm": False,
}
FLUX2 = architectures.FLUX2 | {"in_channels": 128, "out_channels": 128, "depth": 2}
CHROMA = architectures.CHROMA | {"in_channels": 64, "out_channels": 64, "depth": 2}
RADIANCE = CHROMA | {
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 2,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
REFERENCE_LAYERS = 2  # of the language model that HiDream and Lens read
HIDREAM_SMALL = (
    {"image_model": "hidream"}
    | HIDREAM
    | {
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 24,
        "num_attention_heads": 2,
        "caption_channels": [T5_WIDTH, WIDTH],
        "text_emb_dim": POOLED,
        "axes_dims_rope": [8, 8, 8],
        "llama_layers": [0, 1, 1, 1],
    }
)


def hidream(seed: int) -> list:
    """T5's tokens, CLIP's pooled embeddings, and Llama's tokens of every layer."""
    llama = models.random(1, REFERENCE_LAYERS, TOKENS, WIDTH, seed=seed + 2)
    return text(T5_WIDTH, POOLED, conditioning_llama3=llama)(seed)


def lens(seed: int) -> list:
    """Tokens of several layers side by side."""
    return text(
        REFERENCE_LAYERS * WIDTH,
        attention_mask=torch.ones(1, TOKENS, dtype=torch.long),
        num_layers_stacked=REFERENCE_LAYERS,
    )(seed)


MMDITS = [
    Base("SD3", sd3(), (16, 8, 8), text(pooled=POOLED), "mmdit"),
    Base("SD3", sd3(0), (16, 8, 8), text(pooled=POOLED), "mmdit", "3.5 medium"),
    Base(
        "AuraFlow",
        {
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "dim": 64,
            "n_layers": 4,
            "n_double_layers": 2,
            "n_heads": 2,
            "global_conddim": 64,
            "cond_seq_dim": WIDTH,
            "max_seq": 64,
        },
        (4, 8, 8),
        text(),
        "mmdit",
    ),
    Base("Flux", FLUX, (16, 8, 8), text(pooled=POOLED, guidance=3.5), "mmdit"),
    Base(
        "FluxInpaint",
        FLUX | {"in_channels": 96},
        (16, 8, 8),
        text(pooled=POOLED, guidance=30.0, concat_latent_image=latent(16, 8, 8), concat_mask=mask(64)),
        "mmdit",
    ),
    Base("FluxSchnell", FLUX | {"guidance_embed": False}, (16, 8, 8), text(pooled=POOLED), "mmdit"),
    Base(
        "LongCatImage",
        FLUX | {"guidance_embed": False, "vec_in_dim": None, "txt_ids_dims": [1, 2]},
        (16, 8, 8),
        text(),
        "mmdit",
    ),
    Base("Flux2", FLUX2, (128, 4, 4), text(guidance=4.0), "mmdit"),
    Base("Chroma", CHROMA, (16, 8, 8), text(), "mmdit"),
    Base("ChromaRadiance", RADIANCE, (3, 32, 32), text(), "pixel"),
    Base(
        "ChromaRadiance",
        RADIANCE | {"use_x0": True, "nerf_final_head_type": "linear"},
        (3, 32, 32),
        text(),
        "pixel",
        "x0",
    ),
    Base("HiDream", HIDREAM_SMALL, (16, 8, 8), hidream, "mmdit"),
    Base(
        "Lens",
        {
            "image_model": "lens",
            "in_channels": 128,
            "out_channels": 32,
            "num_layers": 2,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "axes_dims_rope": (8, 12, 12),
            "enc_hidden_dim": WIDTH,
            "multi_layer_encoder_feature": True,
            "selected_layer_index": (0, 1),
        },
        (128, 4, 4),
        lens,
        "mmdit",
    ),
]

# ----------------------------------------------------------------------------------- a language model that draws

# The numbers of its special tokens set the size of the vocabulary, which has most of the values.
HIDREAM_O1 = {
    "image_model": "hidream_o1",
    "text_config_overrides": {
        "vocab_size": 151674,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "rope_dims": [2, 2, 2],
    },
    "vision_config_overrides": {
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 32,
        "depth": 1,
        "num_position_embeddings": 16,
    },
}


def hidream_o1(seed: int, **others: Any) -> list:
    """The caption's token numbers, which the network itself reads, in the template of its tokenizer."""
    import comfy.text_encoders.hidream_o1 as names

    words = torch.randint(1000, 50000, (TOKENS,), generator=models.generator(seed)).tolist()
    before = [names.IM_START_ID, names.USER_ID, names.NEWLINE_ID]
    after = [
        names.IM_END_ID,
        names.NEWLINE_ID,
        names.IM_START_ID,
        names.ASSISTANT_ID,
        names.NEWLINE_ID,
        names.BOI_TOKEN_ID,
        names.TMS_TOKEN_ID,
    ]
    tokens = torch.tensor([[*before, *words, *after]])
    return [[tokens[..., None].float(), {"text_input_ids": tokens, **others}]]


LANGUAGE = [
    Base("HiDreamO1", HIDREAM_O1, (3, 64, 64), hidream_o1, "pixel"),
    Base(
        "HiDreamO1",
        HIDREAM_O1,
        (3, 64, 64),
        lambda seed: hidream_o1(seed, reference_latents=[latent(64, 64, 3).sigmoid()]),
        "pixel",
        "reference",
    ),
]

# ------------------------------------------------------------------------------------------------ cross attention


def pixart(alpha: bool) -> Base:
    """PixArt. Latents below 48 give its positions a base grid of size 0."""
    return Base(
        "PixArtAlpha" if alpha else "PixArtSigma",
        architectures.pixart(alpha) | {"model_max_length": TOKENS, "input_size": 48},
        (4, 48, 48),
        text(),
        "cross",
    )


T5_TOKENS = 9


def hunyuan_dit(first: bool) -> Base:
    """HunyuanDiT; the first versions take a style and the picture's size."""

    def caption(seed: int) -> list:
        masks = [torch.tensor([[1] * (count - 2) + [0] * 2]) for count in (TOKENS, T5_TOKENS)]
        return text(
            attention_mask=masks[0],
            attention_mask_mt5xl=masks[1],
            conditioning_mt5xl=models.random(1, T5_TOKENS, T5_WIDTH, seed=seed + 2),
        )(seed)

    return Base(
        "HunyuanDiT1" if first else "HunyuanDiT",
        architectures.hunyuan_dit(first) | {"text_len": TOKENS, "text_len_t5": T5_TOKENS},
        (4, 8, 8),
        caption,
        "cross",
        extra={} if first else {"attn_precision": torch.float32},
    )


CROSS = [pixart(True), pixart(False), hunyuan_dit(False), hunyuan_dit(True)]

BASES: list[Base] = UNETS + CASCADE + MMDITS + LANGUAGE + CROSS
