"""The bases that benchmarks train on: ComfyUI's model with random weights, diffusers' of the same sizes, the inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from apply import COMMON, CONFIGS, random_weights, unet
from configs import FLUX

# One level with one block; heads of 64 channels in SDXL's.
TINY = COMMON | {
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1],
    "use_linear_in_transformer": False,
    "context_dim": 32,
    "adm_in_channels": None,
}
TINY_XL = TINY | {
    "model_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 6 * 256 + 32,
}
TINY_FLUX = FLUX | {
    "vec_in_dim": 16,
    "context_in_dim": 32,
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
}
TO = ("to_q", "to_k", "to_v", "to_out.0")
_SIZES = 6 * 256  # what SDXL embeds of a picture's sizes


@dataclass(frozen=True)
class MeasuredBase:
    """A base and what it is trained on.

    make: a ModelPatcher, by the dtype of its weights. diffusers: the network there, and a call of it with (noisy
    latents, time step, text). latent: [channels, height, width]. text: its tokens and width. pooled: the width of a
    text's pooled output, 0 for none. guided: whether the network takes a guidance. endings, targets: the names of the
    layers of attention in ComfyUI's network and in diffusers'.
    """

    make: Callable[[str], Any]
    diffusers: Callable[[], tuple[Any, Callable[..., Any]]]
    latent: tuple[int, int, int]
    text: tuple[int, int]
    pooled: int = 0
    guided: bool = False
    endings: tuple[str, ...] = TO
    targets: tuple[str, ...] = TO

    def context(self) -> Any:
        """A text's context [1, tokens, width]."""
        return random(3, 1, *self.text)

    def latents(self) -> Any:
        """Random latents [1, channels, height, width]."""
        return random(4, 1, *self.latent)

    def conditioning(self) -> list:
        """The text as nodes give it."""
        extras: dict[str, Any] = {"pooled_output": random(5, 1, self.pooled)} if self.pooled else {}
        return [[self.context(), extras | ({"guidance": 3.5} if self.guided else {})]]

    def inputs(self, device: Any, dtype: Any) -> dict[str, Any]:
        """What ComfyUI's network takes beside latents, time step and context."""
        import torch

        if self.guided:
            guidance = torch.full((1,), 3.5, device=device, dtype=dtype)
            return {"y": random(5, 1, self.pooled).to(device, dtype), "guidance": guidance}
        return {"y": random(5, 1, _SIZES + self.pooled).to(device, dtype)} if self.pooled else {}


def random(seed: int, *shape: int) -> Any:
    """Random numbers on the CPU."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def diffusers_unet(config: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    """diffusers' UNet of these sizes."""
    from diffusers import UNet2DConditionModel

    blocks, sequential = config["num_res_blocks"][0], config.get("num_classes") == "sequential"
    depths = config["transformer_depth"][::blocks]
    channels = tuple(config["model_channels"] * factor for factor in config["channel_mult"])
    others: dict[str, Any] = {"attention_head_dim": 8}
    if sequential:
        others = {
            "attention_head_dim": [width // 64 for width in channels],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": config["adm_in_channels"],
            "transformer_layers_per_block": [max(1, depth) for depth in depths],
            "use_linear_projection": True,
        }
    network = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=channels,
        layers_per_block=blocks,
        down_block_types=["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        up_block_types=["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        cross_attention_dim=config["context_dim"],
        **others,
    )

    def call(network: Any, x: Any, time_step: Any, text: Any) -> Any:
        if not sequential:
            return network(x, time_step, text).sample
        pooled = random(5, 1, config["adm_in_channels"] - _SIZES).to(x)
        conditions = {"text_embeds": pooled, "time_ids": x.new_full((1, 6), 512.0)}
        return network(x, time_step, text, added_cond_kwargs=conditions).sample

    return network, call


def flux(config: dict[str, Any], dtype: str) -> Any:
    """A ModelPatcher of Flux with random weights. Those in fp8 are computed with in bf16, as ComfyUI does."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    class Flux(comfy.supported_models.Flux):
        unet_config: dict[str, Any] = {}

    chosen: Any = Flux(dict(config))
    chosen.set_inference_dtype(getattr(torch, dtype), torch.bfloat16 if dtype.startswith("float8") else None)
    cpu = torch.device("cpu")
    model = chosen.get_model({}, "", device=cpu)
    random_weights(model.parameters())
    return comfy.model_patcher.CoreModelPatcher(model.eval(), comfy.model_management.get_torch_device(), cpu)


def diffusers_flux(config: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    """diffusers' Flux of these sizes. Its fused layers are three there."""
    import torch
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=4 * config["in_channels"],
        num_layers=config["depth"],
        num_single_layers=config["depth_single_blocks"],
        attention_head_dim=config["hidden_size"] // config["num_heads"],
        num_attention_heads=config["num_heads"],
        joint_attention_dim=config["context_in_dim"],
        pooled_projection_dim=config["vec_in_dim"],
        guidance_embeds=True,
        axes_dims_rope=tuple(config["axes_dim"]),
    )

    def call(network: Any, x: Any, time_step: Any, text: Any) -> Any:
        rows, columns = (side // 2 for side in x.shape[2:])
        patches = x.view(1, -1, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, rows * columns, -1)
        places = torch.zeros(rows, columns, 3, device=x.device)
        places[..., 1] += torch.arange(rows, device=x.device)[:, None]
        places[..., 2] += torch.arange(columns, device=x.device)
        predicted = network(
            hidden_states=patches,
            encoder_hidden_states=text,
            pooled_projections=random(5, 1, config["vec_in_dim"]).to(x),
            timestep=time_step / 1000,
            img_ids=places.view(-1, 3),
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device),
            guidance=x.new_full((1,), 3.5, dtype=torch.float32),
        ).sample
        return predicted.view(1, rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    return network, call


def of_unet(kind: str, side: int, tokens: int) -> MeasuredBase:
    """The base of a UNet of CONFIGS."""
    config = CONFIGS[kind]
    pooled = (config["adm_in_channels"] or _SIZES) - _SIZES
    make, diffusers = partial(unet, kind, every=True), partial(diffusers_unet, config)
    return MeasuredBase(make, diffusers, (4, side, side), (tokens, config["context_dim"]), pooled)


def of_flux(config: dict[str, Any], side: int, tokens: int) -> MeasuredBase:
    """The base of a Flux."""
    return MeasuredBase(
        partial(flux, config),
        partial(diffusers_flux, config),
        (16, side, side),
        (tokens, config["context_in_dim"]),
        config["vec_in_dim"],
        guided=True,
        endings=("attn.qkv", "attn.proj", "linear1", "linear2"),
        targets=(*TO, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )


CONFIGS["mid"] = CONFIGS["sd15"] | {"model_channels": 128, "context_dim": 320}
CONFIGS["narrow"] = CONFIGS["sd15"] | {"model_channels": 32, "context_dim": 64}
CONFIGS["tiny"], CONFIGS["tiny_xl"] = TINY, TINY_XL
MEASURED_BASES = {
    "narrow": of_unet("narrow", 8, 8),
    "mid": of_unet("mid", 32, 77),
    "sd15": of_unet("sd15", 32, 77),
    "sd15_64": of_unet("sd15", 64, 77),
    "sdxl": of_unet("sdxl", 128, 77),
    "flux": of_flux(FLUX, 64, 256),
}
# The same networks as narrow and as shallow as they can be, to see whether all works.
SMALL = {
    "mid": of_unet("tiny", 8, 8),
    "sd15": of_unet("tiny", 8, 8),
    "sd15_64": of_unet("tiny", 16, 8),
    "sdxl": of_unet("tiny_xl", 16, 8),
    "flux": of_flux(TINY_FLUX, 8, 8),
}
