"""One entry per architecture: a small diffusers model, ComfyUI's model of the same size, and the same input for both.

A reference here is the diffusers model itself. ComfyUI's model gets its weights by the table under test, tensor by
tensor, slices into their places, so that equal outputs prove the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deft_pack.benchmarks.configs import FLUX2_KLEIN

from .. import clips
from . import models

TOKENS = 7
WIDTH = models.TOKEN_WIDTH


@dataclass(frozen=True)
class Architecture:
    """What a test needs to know of an architecture.

    `diffusers` and `comfyui` build the two models; `call_diffusers` and `call_comfyui` give the prediction of each for
    the same random input; `parameters` are the diffusers model's tensors that are no layer's weight or bias, with
    ComfyUI's name; `without_effect` matches modules whose adapter the diffusers model itself does not use;
    `bases` are the names of the classes in comfy.supported_models that have to exist.
    """

    name: str
    bases: tuple[str, ...]
    diffusers: Callable[[], nn.Module]
    comfyui: Callable[[], Any]
    call_diffusers: Callable[[nn.Module], Tensor]
    call_comfyui: Callable[[Any], Tensor]
    parameters: dict[str, str] = field(default_factory=dict)
    without_effect: str = r"$^"
    unused: str = r"$^"  # tensors of ComfyUI's model that the diffusers model lacks


def small(
    base: str,
    config: dict[str, Any],
    extra: dict[str, Any] | None = None,
    v_prediction: bool = False,
    device: torch.device = models.CPU,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A ModelPatcher of one of ComfyUI's supported models with this configuration, weights uninitialised."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    class Small(getattr(comfy.supported_models, base)):  # type: ignore[misc]
        unet_config: dict[str, Any] = {}
        unet_extra_config = extra or {}

        def model_type(self, state_dict: Any, prefix: str = "") -> Any:
            types = comfy.model_base.ModelType
            return types.V_PREDICTION if v_prediction else super().model_type(state_dict, prefix)

    made = Small(dict(config))
    made.set_inference_dtype(dtype, None)
    with models.with_all_weights():
        model = made.get_model({}, "", device=device)
    model.eval()
    load_device = models.DEVICE if device == models.CPU else device
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=device)


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Random weights in a diffusers model; the large parameters of some are no matrices."""
    return models.fill(network, seed)


def context(width: int = WIDTH, tokens: int = TOKENS) -> Tensor:
    """Text embeddings."""
    return models.random(1, tokens, width, seed=4)


def latent(channels: int, *size: int) -> Tensor:
    """A noisy latent."""
    return models.random(1, channels, *size, seed=3)


def native(model: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The raw output of ComfyUI's network, loaded with its patches as for sampling."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        return models.forward(model, *args, **kwargs)


# UNets


def call_unet(network: nn.Module) -> Tensor:
    """The output of diffusers' UNet without further conditions."""
    return network(latent(4, 8, 8), timestep=torch.tensor([311.0]), encoder_hidden_states=context()).sample


def call_unet_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(4, 8, 8), timesteps=torch.tensor([311.0]), context=context())


SIZES = torch.tensor([[512.0, 384.0, 0.0, 16.0, 640.0, 512.0]])


def pooled() -> Tensor:
    """A pooled text embedding."""
    return models.random(1, models.POOLED_WIDTH, seed=5)


def call_sdxl(network: nn.Module) -> Tensor:
    """The output of SDXL's UNet in diffusers, which embeds the sizes itself."""
    added = {"text_embeds": pooled(), "time_ids": SIZES}
    return network(
        latent(4, 8, 8), timestep=torch.tensor([311.0]), encoder_hidden_states=context(), added_cond_kwargs=added
    ).sample


def call_sdxl_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network, which gets the sizes embedded (model_base.SDXL.encode_adm)."""
    sizes = model.model.embedder(SIZES.flatten()).flatten()[None]
    y = torch.cat((pooled(), sizes), dim=1)
    return native(model, latent(4, 8, 8), timesteps=torch.tensor([311.0]), context=context(), y=y)


def diffusers_sd21() -> nn.Module:
    """diffusers' UNet as of SD 2.1, with two kinds of down blocks."""
    from diffusers import UNet2DConditionModel

    return fill(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
            norm_num_groups=32,
        ),
        seed=17,
    )


SD21_CONFIG = models.SD15_CONFIG | {
    "num_res_blocks": [2, 2],
    "transformer_depth": [1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": True,
}


# Transformers with an image and a text stream


def diffusers_sd3(**options: Any) -> nn.Module:
    """diffusers' SD3."""
    from diffusers import SD3Transformer2DModel

    return fill(
        SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=64,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=128,
            pooled_projection_dim=models.POOLED_WIDTH,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            **options,
        ),
        seed=9,
    )


def sd3(*dual: int) -> dict[str, Any]:
    """SD3's configuration; `dual` are the layers with a second attention, which 3.5 medium has."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}}
    return {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "depth": 2,
        "input_size": None,
        "adm_in_channels": models.POOLED_WIDTH,
        "context_embedder_config": embedder,
        "num_patches": 64,
        "pos_embed_max_size": 8,
        "pos_embed_scaling_factor": None,
        "qk_norm": "rms",
        "x_block_self_attn_layers": list(dual),
    }


def comfyui_sd3(*dual: int) -> Any:
    """ComfyUI's SD3; `dual` are the layers with a second attention."""
    return small("SD3", sd3(*dual))


def call_sd3(network: nn.Module) -> Tensor:
    """The output of diffusers' SD3."""
    return network(
        latent(16, 8, 8), timestep=torch.tensor([311.0]), encoder_hidden_states=context(), pooled_projections=pooled()
    ).sample


def call_sd3_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(16, 8, 8), timesteps=torch.tensor([311.0]), context=context(), y=pooled())


def diffusers_flux() -> nn.Module:
    """diffusers' Flux.1 with guidance."""
    from diffusers import FluxTransformer2DModel

    return fill(
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=24,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=models.POOLED_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(8, 8, 8),
        ),
        seed=19,
    )


def comfyui_flux() -> Any:
    """ComfyUI's Flux.1."""
    return small(
        "Flux",
        {
            "image_model": "flux",
            "guidance_embed": True,
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "vec_in_dim": models.POOLED_WIDTH,
            "context_in_dim": WIDTH,
            "hidden_size": 48,
            "mlp_ratio": 4.0,
            "num_heads": 2,
            "depth": 1,
            "depth_single_blocks": 2,
            "axes_dim": [8, 8, 8],
            "theta": 10000,
            "qkv_bias": True,
            "txt_ids_dims": [],
        },
    )


def packed(value: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, tokens, C * 4], channels slowest, as the pipelines of Flux and Qwen pack it."""
    batch, channels, height, width = value.shape
    value = value.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return value.reshape(batch, height // 2 * (width // 2), channels * 4)


def unpacked(value: Tensor, height: int, width: int) -> Tensor:
    """The reverse of `packed`."""
    batch, _, size = value.shape
    value = value.view(batch, height // 2, width // 2, size // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return value.reshape(batch, size // 4, height, width)


def grid(height: int, width: int, axes: int = 3) -> Tensor:
    """Position ids [height * width, axes] of image tokens: row on axis 1, column on axis 2."""
    ids = torch.zeros(height, width, axes)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None]
    return ids.view(-1, axes)


def call_flux(network: nn.Module) -> Tensor:
    """The output of diffusers' Flux.1 on latents packed by hand."""
    out = network(
        packed(latent(4, 8, 12)),
        timestep=torch.tensor([0.7]),
        encoder_hidden_states=context(),
        pooled_projections=pooled(),
        guidance=torch.tensor([3.5]),
        img_ids=grid(4, 6),
        txt_ids=torch.zeros(TOKENS, 3),
    ).sample
    return unpacked(out, 8, 12)


def call_flux_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(4, 8, 12), torch.tensor([0.7]), context(), y=pooled(), guidance=torch.tensor([3.5]))


def diffusers_flux2() -> nn.Module:
    """diffusers' Flux.2 with guidance."""
    from diffusers import Flux2Transformer2DModel

    return fill(
        Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            mlp_ratio=3.0,
            axes_dims_rope=(8, 8, 8, 8),
        ),
        seed=20,
    )


FLUX2 = FLUX2_KLEIN | {
    "guidance_embed": True,
    "in_channels": 16,
    "out_channels": 16,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 8, 8, 8],
}


def comfyui_flux2() -> Any:
    """ComfyUI's Flux.2."""
    return small("Flux2", FLUX2)


def call_flux2(network: nn.Module) -> Tensor:
    """The output of diffusers' Flux.2: a token is a pixel of the latent; text tokens count on the last axis."""
    text_ids = torch.zeros(1, TOKENS, 4)
    text_ids[..., 3] = torch.arange(TOKENS)
    hidden = latent(16, 4, 6).flatten(2).transpose(1, 2)
    out = network(
        hidden,
        timestep=torch.tensor([0.7]),
        encoder_hidden_states=context(),
        guidance=torch.tensor([3.5]),
        img_ids=grid(4, 6, 4)[None],
        txt_ids=text_ids,
    ).sample
    return out.transpose(1, 2).reshape(1, 16, 4, 6)


def call_flux2_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(16, 4, 6), torch.tensor([0.7]), context(), guidance=torch.tensor([3.5]))


def diffusers_chroma() -> nn.Module:
    """diffusers' Chroma, with as many modulations as of all layers of the published one: ComfyUI's number is fixed."""
    from diffusers import ChromaTransformer2DModel
    from diffusers.models.transformers.transformer_chroma import ChromaCombinedTimestepTextProjEmbeddings

    network = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=24,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 8, 8),
        approximator_num_channels=64,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    network.time_text_embed = ChromaCombinedTimestepTextProjEmbeddings(num_channels=16, out_dim=344)
    return fill(network, seed=29)


CHROMA = {
    "image_model": "chroma",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": None,
    "context_in_dim": WIDTH,
    "hidden_size": 48,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 8, 8],
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
    "in_dim": 64,
    "out_dim": 48,
    "hidden_dim": 32,
    "n_layers": 2,
}


def comfyui_chroma() -> Any:
    """ComfyUI's Chroma."""
    return small("Chroma", CHROMA)


def call_chroma(network: nn.Module) -> Tensor:
    """The output of diffusers' Chroma on latents packed by hand."""
    out = network(
        packed(latent(4, 8, 12)),
        timestep=torch.tensor([0.7]),
        encoder_hidden_states=context(),
        img_ids=grid(4, 6),
        txt_ids=torch.zeros(TOKENS, 3),
    ).sample
    return unpacked(out, 8, 12)


def call_chroma_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network, without guidance."""
    return native(model, latent(4, 8, 12), torch.tensor([0.7]), context(), guidance=torch.tensor([0.0]))


def diffusers_qwen_image() -> nn.Module:
    """diffusers' Qwen-Image."""
    from diffusers import QwenImageTransformer2DModel

    return fill(
        QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=24,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 8, 8),
        ),
        seed=21,
    )


def comfyui_qwen_image() -> Any:
    """ComfyUI's Qwen-Image."""
    return small(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 24,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "axes_dims_rope": (8, 8, 8),
        },
    )


def call_qwen_image(network: nn.Module) -> Tensor:
    """The output of diffusers' Qwen-Image on latents packed by hand."""
    out = network(
        packed(latent(4, 8, 12)),
        timestep=torch.tensor([0.7]),
        encoder_hidden_states=context(),
        encoder_hidden_states_mask=torch.ones(1, TOKENS, dtype=torch.long),
        img_shapes=[[(1, 4, 6)]],
    ).sample
    return unpacked(out, 8, 12)[:, :, None]


def call_qwen_image_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network, which takes a film of one frame."""
    return native(model, latent(4, 8, 12)[:, :, None], torch.tensor([0.7]), context())


def diffusers_auraflow() -> nn.Module:
    """diffusers' AuraFlow."""
    from diffusers import AuraFlowTransformer2DModel

    return fill(
        AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=64,
        ),
        seed=22,
    )


def comfyui_auraflow() -> Any:
    """ComfyUI's AuraFlow."""
    return small(
        "AuraFlow",
        {
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "dim": 64,
            "n_layers": 3,
            "n_double_layers": 1,
            "n_heads": 2,
            "global_conddim": 64,
            "cond_seq_dim": WIDTH,
            "max_seq": 64,
        },
    )


def call_auraflow(network: nn.Module) -> Tensor:
    """The output of diffusers' AuraFlow."""
    return network(latent(4, 8, 8), encoder_hidden_states=context(), timestep=torch.tensor([0.7])).sample


def call_auraflow_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(4, 8, 8), torch.tensor([0.7]), context())


# Transformers with cross attention

PIXART_SIZE = 64  # the smallest latent for which both agree on the base grid of the positions


def diffusers_pixart(alpha: bool) -> nn.Module:
    """diffusers' PixArt; alpha of 1024 pixels takes the picture's size and aspect ratio."""
    from diffusers import PixArtTransformer2DModel

    return fill(
        PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=48,
            sample_size=PIXART_SIZE,
            patch_size=2,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            caption_channels=WIDTH,
            interpolation_scale=1,
            use_additional_conditions=alpha,
        ),
        seed=23,
    )


def pixart(alpha: bool) -> dict[str, Any]:
    """PixArt's configuration."""
    return {
        "image_model": "pixart_alpha" if alpha else "pixart_sigma",
        "num_heads": 2,
        "patch_size": 2,
        "hidden_size": 48,
        "in_channels": 4,
        "depth": 2,
        "caption_channels": WIDTH,
        "model_max_length": TOKENS,
        "pe_interpolation": 1,
        "input_size": PIXART_SIZE,
        "micro_condition": alpha,
    }


def comfyui_pixart(alpha: bool) -> Any:
    """ComfyUI's PixArt."""
    return small("PixArtAlpha" if alpha else "PixArtSigma", pixart(alpha))


def call_pixart(network: nn.Module) -> Tensor:
    """The first half of diffusers' PixArt's output, without the variance."""
    size = PIXART_SIZE
    alpha = network.config.use_additional_conditions
    added = (
        {"resolution": torch.tensor([[size * 8.0] * 2]), "aspect_ratio": torch.tensor([[1.0]])}
        if alpha
        else {"resolution": None, "aspect_ratio": None}
    )
    return network(
        latent(4, size, size), encoder_hidden_states=context(), timestep=torch.tensor([311.0]), added_cond_kwargs=added
    ).sample[:, :4]


def call_pixart_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network, which sets size and aspect ratio itself."""
    return native(model, latent(4, PIXART_SIZE, PIXART_SIZE), torch.tensor([311.0]), context())


PIXART_PARAMETERS = {"scale_shift_table": "final_layer.scale_shift_table"} | {
    f"transformer_blocks.{index}.scale_shift_table": f"blocks.{index}.scale_shift_table" for index in range(2)
}

T5_WIDTH = 40


def diffusers_hunyuan_dit(first: bool) -> nn.Module:
    """diffusers' HunyuanDiT; the first versions take a style and the picture's size."""
    from diffusers import HunyuanDiT2DModel

    return fill(
        HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=48,
            num_layers=4,
            mlp_ratio=4.0,
            learn_sigma=True,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=T5_WIDTH,
            pooled_projection_dim=1024,
            text_len=TOKENS,
            text_len_t5=9,
            use_style_cond_and_image_meta_size=first,
        ),
        seed=24,
    )


def hunyuan_dit(first: bool) -> dict[str, Any]:
    """HunyuanDiT's configuration; the first versions take a style and the picture's size."""
    extra = {"size_cond": True, "use_style_cond": True} if first else {}
    return {
        "image_model": "hydit1" if first else "hydit",
        "in_channels": 4,
        "patch_size": 2,
        "hidden_size": 48,
        "depth": 4,
        "num_heads": 2,
        "mlp_ratio": 4.0,
        "text_states_dim": WIDTH,
        "text_states_dim_t5": T5_WIDTH,
        "text_len": TOKENS,
        "text_len_t5": 9,
        **extra,
    }


def comfyui_hunyuan_dit(first: bool) -> Any:
    """ComfyUI's HunyuanDiT."""
    return small("HunyuanDiT1" if first else "HunyuanDiT", hunyuan_dit(first))


def hunyuan_texts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Text embeddings and masks of the two encoders; two tokens of each are padding."""
    masks = [torch.tensor([[1] * (count - 2) + [0] * 2]) for count in (TOKENS, 9)]
    return context(), masks[0], models.random(1, 9, T5_WIDTH, seed=6), masks[1]


def call_hunyuan_dit(network: nn.Module) -> Tensor:
    """The output of diffusers' HunyuanDiT, with the rotary embedding of its pipeline."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    rotary = get_2d_rotary_pos_embed(24, get_resize_crop_region_for_grid((4, 4), 32), (4, 4), output_type="pt")
    text, mask, t5, t5_mask = hunyuan_texts()
    return network(
        latent(4, 8, 8),
        torch.tensor([311.0]),
        encoder_hidden_states=text,
        text_embedding_mask=mask,
        encoder_hidden_states_t5=t5,
        text_embedding_mask_t5=t5_mask,
        image_meta_size=SIZES,
        style=torch.tensor([0]),
        image_rotary_emb=rotary,
    ).sample[:, :4]


def call_hunyuan_dit_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    text, mask, t5, t5_mask = hunyuan_texts()
    return native(
        model,
        latent(4, 8, 8),
        torch.tensor([311.0]),
        text,
        text_embedding_mask=mask,
        encoder_hidden_states_t5=t5,
        text_embedding_mask_t5=t5_mask,
        image_meta_size=SIZES,
    )


def diffusers_wan(image: bool) -> nn.Module:
    """diffusers' Wan 2.1, from text or from an image."""
    from diffusers import WanTransformer3DModel

    options = {"image_dim": 1280, "added_kv_proj_dim": 48} if image else {}
    return fill(
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=16,
            out_channels=16,
            text_dim=WIDTH,
            freq_dim=64,
            ffn_dim=96,
            num_layers=2,
            cross_attn_norm=True,
            **options,
        ),
        seed=25,
    )


def comfyui_wan(image: bool) -> Any:
    """ComfyUI's Wan 2.1."""
    return small(
        "WAN21_I2V" if image else "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "model_type": "i2v" if image else "t2v",
            "patch_size": (1, 2, 2),
            "in_dim": 16,
            "out_dim": 16,
            "dim": 48,
            "ffn_dim": 96,
            "freq_dim": 64,
            "text_dim": WIDTH,
            "num_heads": 2,
            "num_layers": 2,
            "cross_attn_norm": True,
            "eps": 1e-6,
        },
    )


WAN_TEXT = 512  # tokens; diffusers counts on it to tell text from image tokens


def wan_image() -> Tensor:
    """CLIP vision embeddings."""
    return models.random(1, 257, 1280, seed=8)


def call_wan(network: nn.Module) -> Tensor:
    """The output of diffusers' Wan for a film of two frames."""
    image = {"encoder_hidden_states_image": wan_image()} if network.config.image_dim else {}
    return network(
        latent(16, 2, 4, 6), timestep=torch.tensor([311.0]), encoder_hidden_states=context(tokens=WAN_TEXT), **image
    ).sample


def call_wan_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    image = {"clip_fea": wan_image()} if model.model.diffusion_model.img_emb is not None else {}
    return native(model, latent(16, 2, 4, 6), torch.tensor([311.0]), context(tokens=WAN_TEXT), **image)


WAN_PARAMETERS = {"scale_shift_table": "head.modulation"} | {
    f"blocks.{index}.scale_shift_table": f"blocks.{index}.modulation" for index in range(2)
}


# Transformers of one stream. ComfyUI gives them the noise level and turns the sign of the output; the networks
# themselves count the other way.

LEVEL = 0.7


def diffusers_lumina2() -> nn.Module:
    """diffusers' Lumina 2 with a third as many key heads as query heads."""
    from diffusers import Lumina2Transformer2DModel

    return fill(
        Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=72,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            norm_eps=1e-5,
            axes_dim_rope=(8, 8, 8),
            axes_lens=(30, 16, 16),
            cap_feat_dim=WIDTH,
        ),
        seed=26,
    )


def comfyui_lumina2() -> Any:
    """ComfyUI's Lumina 2."""
    return small(
        "Lumina2",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 4,
            "dim": 72,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 3,
            "n_kv_heads": 1,
            "multiple_of": 8,
            "ffn_dim_multiplier": 4.0,
            "qk_norm": True,
            "cap_feat_dim": WIDTH,
            "axes_dims": [8, 8, 8],
            "axes_lens": [30, 16, 16],
            "rope_theta": 10000.0,
        },
    )


def call_lumina2(network: nn.Module) -> Tensor:
    """The output of diffusers' Lumina 2."""
    return -network(
        latent(4, 8, 12),
        timestep=torch.tensor([1 - LEVEL]),
        encoder_hidden_states=context(),
        encoder_attention_mask=torch.ones(1, TOKENS, dtype=torch.long),
    ).sample


def call_lumina2_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(4, 8, 12), torch.tensor([LEVEL]), context(), num_tokens=TOKENS)


Z_TOKENS = 32  # text and image tokens are filled up to multiples of this


def diffusers_z_image() -> nn.Module:
    """diffusers' Z-Image, its time embedder as narrow as the rest: its width is no option."""
    from diffusers import ZImageTransformer2DModel
    from diffusers.models.transformers.transformer_z_image import TimestepEmbedder

    network = ZImageTransformer2DModel(
        in_channels=4,
        dim=256,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=WIDTH,
        axes_dims=[16, 24, 24],
        axes_lens=[64, 32, 32],
    )
    network.t_embedder = TimestepEmbedder(256, mid_size=256)
    return fill(network, seed=27)


def comfyui_z_image() -> Any:
    """ComfyUI's Z-Image."""
    return small(
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 4,
            "dim": 256,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 4,
            "n_kv_heads": 4,
            "multiple_of": 2,
            "ffn_dim_multiplier": 8 / 3,
            "qk_norm": True,
            "cap_feat_dim": WIDTH,
            "axes_dims": [16, 24, 24],
            "axes_lens": [64, 32, 32],
            "rope_theta": 256.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": Z_TOKENS,
        },
    )


def call_z_image(network: nn.Module) -> Tensor:
    """The output of diffusers' Z-Image, which takes lists of films of one frame and of texts."""
    out = network([latent(4, 8, 12)[0][:, None]], torch.tensor([1 - LEVEL]), [context()[0]]).sample
    return -out[0][None, :, 0]


def call_z_image_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(model, latent(4, 8, 12), torch.tensor([LEVEL]), context(), num_tokens=TOKENS)


class OmniGen2(nn.Module):
    """OmniGen2's transformer of diffusers' parts, with the module names of its published checkpoint.

    diffusers 0.42 has no class for it. Its blocks are those of Lumina 2, which diffusers has; the rest is written here
    after the original (github.com/VectorSpaceLab/OmniGen2, models/transformers/transformer_omnigen2.py): text tokens
    count on all three axes, reference images come between the text and the picture, each shifted along the first axis
    by the larger side of the one before, and have their own patch embedder, refiner and index embedding.
    """

    def __init__(self, width: int, heads: int, shared_heads: int, axis: int, channels: int, depth: int) -> None:
        from diffusers.models.normalization import LuminaLayerNormContinuous
        from diffusers.models.transformers.transformer_lumina2 import (
            Lumina2CombinedTimestepCaptionEmbedding,
            Lumina2TransformerBlock,
        )

        super().__init__()

        def blocks(count: int, modulation: bool = True) -> nn.ModuleList:
            return nn.ModuleList(
                Lumina2TransformerBlock(width, heads, shared_heads, 8, None, 1e-5, modulation) for _ in range(count)
            )

        self.axis, self.channels = axis, channels
        self.x_embedder = nn.Linear(4 * channels, width)
        self.ref_image_patch_embedder = nn.Linear(4 * channels, width)
        self.time_caption_embed = Lumina2CombinedTimestepCaptionEmbedding(width, WIDTH)
        self.noise_refiner, self.ref_image_refiner = blocks(1), blocks(1)
        self.context_refiner, self.layers = blocks(1, modulation=False), blocks(depth)
        self.norm_out = LuminaLayerNormContinuous(
            width, min(width, 1024), elementwise_affine=False, eps=1e-6, out_dim=4 * channels
        )
        self.image_index_embedding = nn.Parameter(torch.empty(5, width))

    def rotary(self, ids: Tensor) -> Tensor:
        """Complex rotations [1, tokens, head / 2] for position ids [tokens, 3]."""
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        turns = [
            get_1d_rotary_pos_embed(self.axis, ids[:, axis].double(), theta=10000, freqs_dtype=torch.float64)
            for axis in range(3)
        ]
        return torch.cat(turns, dim=-1)[None]

    def forward(self, noisy: Tensor, timestep: Tensor, text: Tensor, references: list[Tensor]) -> Tensor:
        """noisy [1, C, H, W], text [1, T, WIDTH], references each [1, C, h, w] -> [1, C, H, W]."""
        height, width = noisy.shape[-2:]
        text_ids = torch.arange(text.shape[1])[:, None].repeat(1, 3)
        shift, ids, flat = text.shape[1], [], []
        for index, image in enumerate([*references, noisy]):
            rows, columns = image.shape[-2] // 2, image.shape[-1] // 2
            place = grid(rows, columns)
            place[:, 0] = shift
            shift += max(rows, columns)
            ids.append(place)
            tokens = image.view(1, self.channels, rows, 2, columns, 2).permute(0, 2, 4, 3, 5, 1)
            tokens = tokens.reshape(1, rows * columns, -1)
            embedded = (
                self.x_embedder(tokens)
                if index == len(references)
                else (self.ref_image_patch_embedder(tokens) + self.image_index_embedding[index])
            )
            flat.append(embedded)
        moment, words = self.time_caption_embed(noisy, timestep, text)
        for block in self.context_refiner:
            words = block(words, None, self.rotary(text_ids))
        picture = flat[-1]
        for block in self.noise_refiner:
            picture = block(picture, None, self.rotary(ids[-1]), moment)
        shown = torch.cat(flat[:-1], dim=1)
        for block in self.ref_image_refiner:
            shown = block(shown, None, self.rotary(torch.cat(ids[:-1])), moment)
        joint = torch.cat([words, shown, picture], dim=1)
        turns = self.rotary(torch.cat([text_ids, *ids]))
        for block in self.layers:
            joint = block(joint, None, turns, moment)
        out = self.norm_out(joint[:, -picture.shape[1] :], moment)
        out = out.view(1, height // 2, width // 2, 2, 2, self.channels).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(1, self.channels, height, width)


def comfyui_omnigen2(channels: int = 4) -> Any:
    """ComfyUI's OmniGen2; 16 channels are those of its latents."""
    return small(
        "Omnigen2",
        {
            "image_model": "omnigen2",
            "patch_size": 2,
            "in_channels": channels,
            "hidden_size": 72,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 8,
            "norm_eps": 1e-5,
            "axes_dim_rope": (8, 8, 8),
            "axes_lens": (30, 16, 16),
            "text_feat_dim": WIDTH,
            "timestep_scale": 1.0,
        },
    )


def references() -> list[Tensor]:
    """Two pictures to refer to, of different shapes."""
    return [models.random(1, 4, 4, 6, seed=31), models.random(1, 4, 8, 4, seed=32)]


def call_omnigen2(network: nn.Module) -> Tensor:
    """The output of diffusers' OmniGen2."""
    return -network(latent(4, 8, 12), torch.tensor([1 - LEVEL]), context(), references())


def call_omnigen2_natively(model: Any) -> Tensor:
    """The output of ComfyUI's network."""
    return native(
        model, latent(4, 8, 12), torch.tensor([LEVEL]), context(), num_tokens=TOKENS, ref_latents=references()
    )


ARCHITECTURES = [
    Architecture("SD1.5", ("SD15",), models.diffusers_sd15, lambda: models.unet("sd15"), call_unet, call_unet_natively),
    Architecture(
        "SD2.1",
        ("SD20",),
        diffusers_sd21,
        lambda: small("SD20", SD21_CONFIG, {"num_heads": -1, "num_head_channels": 16}, v_prediction=True),
        call_unet,
        call_unet_natively,
    ),
    Architecture("SDXL", ("SDXL",), models.diffusers_sdxl, lambda: models.unet("sdxl"), call_sdxl, call_sdxl_natively),
    Architecture(
        "SD3", ("SD3",), diffusers_sd3, comfyui_sd3, call_sd3, call_sd3_natively, {"pos_embed.pos_embed": "pos_embed"}
    ),
    Architecture(
        "SD3.5-medium",
        ("SD3",),
        lambda: diffusers_sd3(dual_attention_layers=(0,)),
        lambda: comfyui_sd3(0),
        call_sd3,
        call_sd3_natively,
        {"pos_embed.pos_embed": "pos_embed"},
    ),
    Architecture("Flux.1", ("Flux",), diffusers_flux, comfyui_flux, call_flux, call_flux_natively),
    Architecture("Flux.2", ("Flux2",), diffusers_flux2, comfyui_flux2, call_flux2, call_flux2_natively),
    Architecture("Chroma", ("Chroma",), diffusers_chroma, comfyui_chroma, call_chroma, call_chroma_natively),
    Architecture(
        "Qwen-Image",
        ("QwenImage",),
        diffusers_qwen_image,
        comfyui_qwen_image,
        call_qwen_image,
        call_qwen_image_natively,
    ),
    Architecture(
        "AuraFlow",
        ("AuraFlow",),
        diffusers_auraflow,
        comfyui_auraflow,
        call_auraflow,
        call_auraflow_natively,
        {"pos_embed.pos_embed": "positional_encoding", "register_tokens": "register_tokens"},
    ),
    Architecture(
        "PixArt alpha",
        ("PixArtAlpha",),
        lambda: diffusers_pixart(True),
        lambda: comfyui_pixart(True),
        call_pixart,
        call_pixart_natively,
        PIXART_PARAMETERS,
        unused=r"y_embedder\.y_embedding",
    ),
    Architecture(
        "PixArt sigma",
        ("PixArtSigma",),
        lambda: diffusers_pixart(False),
        lambda: comfyui_pixart(False),
        call_pixart,
        call_pixart_natively,
        PIXART_PARAMETERS,
        unused=r"y_embedder\.y_embedding",
    ),
    *(
        Architecture(
            f"HunyuanDiT {version}",
            ("HunyuanDiT1" if first else "HunyuanDiT",),
            lambda first=first: diffusers_hunyuan_dit(first),
            lambda first=first: comfyui_hunyuan_dit(first),
            call_hunyuan_dit,
            call_hunyuan_dit_natively,
            {
                "text_embedding_padding": "text_embedding_padding",
                "time_extra_emb.pooler.positional_embedding": "pooler.positional_embedding",
            },
            # torch's attention takes these layers' weights, so that PEFT's layer around them never runs.
            without_effect=r"time_extra_emb\.pooler\..*",
        )
        for version, first in (("1.2", False), ("1.1", True))
    ),
    Architecture("Lumina 2", ("Lumina2",), diffusers_lumina2, comfyui_lumina2, call_lumina2, call_lumina2_natively),
    Architecture(
        "Z-Image",
        ("ZImage",),
        diffusers_z_image,
        comfyui_z_image,
        call_z_image,
        call_z_image_natively,
        {"x_pad_token": "x_pad_token", "cap_pad_token": "cap_pad_token"},
    ),
    *(
        Architecture(
            f"Wan 2.1 {kind}",
            (f"WAN21_{kind}",),
            lambda image=image: diffusers_wan(image),
            lambda image=image: comfyui_wan(image),
            call_wan,
            call_wan_natively,
            WAN_PARAMETERS,
        )
        for kind, image in (("T2V", False), ("I2V", True))
    ),
    Architecture(
        "OmniGen2",
        ("Omnigen2",),
        lambda: fill(OmniGen2(72, 3, 1, 8, 4, 2), seed=28),
        comfyui_omnigen2,
        call_omnigen2,
        call_omnigen2_natively,
        {"image_index_embedding": "image_index_embedding"},
    ),
]


# Architectures of which only names and sizes are compared: name, class in comfy.supported_models, ComfyUI's and
# diffusers' options. On the meta device: these have no small sizes.
HIDREAM = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 20,
    "caption_channels": [4096, 4096],
    "text_emb_dim": 2048,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "axes_dims_rope": [64, 32, 32],
    "max_resolution": [128, 128],
    "llama_layers": [0, 1],
}
KANDINSKY = {
    "num_text_blocks": 1,
    "num_visual_blocks": 1,
    "model_dim": 256,
    "time_dim": 64,
    "ff_dim": 512,
    "visual_embed_dim": 132,
}
BY_NAME = [
    ("HiDream", "HiDream", {"image_model": "hidream", **HIDREAM}, "HiDreamImageTransformer2DModel", HIDREAM),
    (
        "Kandinsky 5",
        "Kandinsky5",
        {"image_model": "kandinsky5", "axes_dims": (16, 24, 24), **KANDINSKY},
        "Kandinsky5Transformer3DModel",
        {
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "model_dim": 256,
            "time_dim": 64,
            "ff_dim": 512,
            "in_visual_dim": 16,
            "out_visual_dim": 16,
            "visual_cond": True,
        },
    ),
    (
        "ERNIE-Image",
        "ErnieImage",
        {"image_model": "ernie", "num_layers": 1},
        "ErnieImageTransformer2DModel",
        {
            "num_layers": 1,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "ffn_hidden_size": 12288,
            "text_in_dim": 3072,
        },
    ),
    (
        "LTX-Video",
        "LTXV",
        {"image_model": "ltxv", "num_layers": 1, "cross_attention_dim": 2048, "attention_head_dim": 64},
        "LTXVideoTransformer3DModel",
        {"num_layers": 1},
    ),
]


# Text encoders


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder of a pipeline: ComfyUI's module `part` of a CLIP, diffusers' component, transformers' model.

    `bare` says whether names without the component mean this one; `lacks` matches layers that ComfyUI has not.
    """

    name: str
    clip: Callable[[], Any]
    part: str
    component: str
    transformers: Callable[[], nn.Module]
    bare: bool = True
    lacks: str = r"$^"


CLIP_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
CLIP_G_SIZES = CLIP_SIZES | {"hidden_size": 48, "projection_dim": 48}
T5_SIZES = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 100}
BERT_SIZES = CLIP_SIZES | {"vocab_size": 100}
LLM_SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def text_model(folder: str, kind: str, **options: Any) -> Any:
    """ComfyUI's CLIP object around one of its classes, small, weights uninitialised, without a tokenizer."""
    import importlib
    import types

    target = types.SimpleNamespace(
        params=options, clip=getattr(importlib.import_module(folder), kind), tokenizer=lambda **_: None
    )
    sizes = {
        "clip_l": CLIP_SIZES,
        "clip_g": CLIP_G_SIZES,
        "t5xxl": T5_SIZES,
        "umt5xxl": T5_SIZES,
        "mt5xl": T5_SIZES,
        "hydit_clip": BERT_SIZES,
        "gemma2_2b": LLM_SIZES,
        "qwen3_4b": LLM_SIZES,
    }
    return models.clip_of(
        target, {"dtype": torch.float32, **{f"{name}_model_config": value for name, value in sizes.items()}}
    )


def transformers_clip(projection: bool, sizes: dict[str, Any], act: str) -> nn.Module:
    """transformers' CLIP text model."""
    import transformers

    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return fill(
        kind(
            transformers.CLIPTextConfig(
                hidden_act=act, **clips.TOKENS, **({"projection_dim": sizes["hidden_size"]} | sizes)
            )
        ),
        seed=41,
    )


def transformers_t5(kind: str = "T5", act: str = "gelu_new") -> nn.Module:
    """transformers' T5 encoder or a relative of it."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        dense_act_fn=act, feed_forward_proj="gated-gelu", is_gated_act=True, dropout_rate=0.0, **T5_SIZES
    )
    return fill(getattr(transformers, f"{kind}EncoderModel")(config), seed=42)


def transformers_bert() -> nn.Module:
    """transformers' BERT as in HunyuanDiT."""
    import transformers

    return fill(transformers.BertModel(transformers.BertConfig(max_position_embeddings=512, **BERT_SIZES)), seed=43)


def transformers_llm(kind: str) -> nn.Module:
    """A language model of transformers without a head."""
    import transformers

    # ComfyUI leaves out Gemma's soft cap of the attention, which changes little.
    options = {
        "Gemma2": {"head_dim": 256, "attn_logit_softcapping": None},
        "Qwen3": {"head_dim": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    }[kind]
    return fill(
        getattr(transformers, f"{kind}Model")(
            getattr(transformers, f"{kind}Config")(
                pad_token_id=0, bos_token_id=1, eos_token_id=2, **options, **LLM_SIZES
            )
        ),
        seed=44,
    )


def tokens(network: nn.Module) -> Tensor:
    """Token numbers that end with the last one of the vocabulary, CLIP's end; CLIP takes 77."""
    count = network.config.vocab_size
    ids = torch.randint(2, count - 2, (1, 77), generator=models.generator(50))
    ids[0, -1] = count - 1
    return ids


def call_transformers(network: nn.Module) -> Tensor:
    """The last hidden state, and the projected end token where there is one."""
    with torch.no_grad():
        out = network(tokens(network))
    projected = getattr(out, "text_embeds", None)
    return (
        out.last_hidden_state.flatten()
        if projected is None
        else torch.cat([out.last_hidden_state.flatten(), projected.flatten()])
    )


def call_text_model(clip: Any, part: str, network: nn.Module) -> Tensor:
    """The same of ComfyUI's, loaded with its patches."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([clip.patcher])
        ids = tokens(network)
        out = getattr(clip.cond_stage_model, part).transformer(
            ids, attention_mask=torch.ones_like(ids), dtype=torch.float32
        )
        parts = [out[0].flatten()]
        if hasattr(network, "text_projection"):
            parts.append(out[2].flatten())
        return torch.cat(parts).clone()


SDXL_CLIP = ("comfy.sdxl_clip", "SDXLClipModel")
SD3_CLIP = ("comfy.text_encoders.sd3_clip", "SD3ClipModel")
TEXT_ENCODERS = [
    TextEncoder(
        "SD1.5 CLIP-L",
        lambda: text_model("comfy.sd1_clip", "SD1ClipModel"),
        "clip_l",
        "text_encoder",
        lambda: transformers_clip(False, CLIP_SIZES, "quick_gelu"),
    ),
    TextEncoder(
        "SDXL CLIP-L",
        lambda: text_model(*SDXL_CLIP),
        "clip_l",
        "text_encoder",
        lambda: transformers_clip(False, CLIP_SIZES, "quick_gelu"),
    ),
    TextEncoder(
        "SDXL CLIP-G",
        lambda: text_model(*SDXL_CLIP),
        "clip_g",
        "text_encoder_2",
        lambda: transformers_clip(True, CLIP_G_SIZES, "gelu"),
        bare=False,
    ),
    TextEncoder(
        "SD3 CLIP-L",
        lambda: text_model(*SD3_CLIP),
        "clip_l",
        "text_encoder",
        lambda: transformers_clip(True, CLIP_SIZES, "quick_gelu"),
    ),
    TextEncoder(
        "SD3 CLIP-G",
        lambda: text_model(*SD3_CLIP),
        "clip_g",
        "text_encoder_2",
        lambda: transformers_clip(True, CLIP_G_SIZES, "gelu"),
        bare=False,
    ),
    TextEncoder("SD3 T5", lambda: text_model(*SD3_CLIP), "t5xxl", "text_encoder_3", transformers_t5),
    TextEncoder(
        "SD3 T5 alone",
        lambda: text_model(*SD3_CLIP, clip_l=False, clip_g=False),
        "t5xxl",
        "text_encoder_3",
        transformers_t5,
    ),
    TextEncoder(
        "Flux.1 T5",
        lambda: text_model("comfy.text_encoders.flux", "FluxClipModel"),
        "t5xxl",
        "text_encoder_2",
        transformers_t5,
    ),
    TextEncoder(
        "PixArt T5",
        lambda: text_model("comfy.text_encoders.pixart_t5", "PixArtT5XXL"),
        "t5xxl",
        "text_encoder",
        transformers_t5,
    ),
    TextEncoder(
        "Wan UMT5",
        lambda: text_model("comfy.text_encoders.wan", "WanT5Model"),
        "umt5xxl",
        "text_encoder",
        lambda: transformers_t5("UMT5"),
    ),
    TextEncoder(
        "HunyuanDiT BERT",
        lambda: text_model("comfy.text_encoders.hydit", "HyditModel"),
        "hydit_clip",
        "text_encoder",
        transformers_bert,
        lacks=r"pooler\..*",
    ),
    TextEncoder(
        "HunyuanDiT mT5",
        lambda: text_model("comfy.text_encoders.hydit", "HyditModel"),
        "mt5xl",
        "text_encoder_2",
        lambda: transformers_t5("MT5"),
    ),
    TextEncoder(
        "Lumina 2 Gemma 2",
        lambda: text_model("comfy.text_encoders.lumina2", "LuminaModel"),
        "gemma2_2b",
        "text_encoder",
        lambda: transformers_llm("Gemma2"),
    ),
    TextEncoder(
        "Z-Image Qwen 3",
        lambda: text_model("comfy.text_encoders.z_image", "ZImageTEModel"),
        "qwen3_4b",
        "text_encoder",
        lambda: transformers_llm("Qwen3"),
    ),
]
