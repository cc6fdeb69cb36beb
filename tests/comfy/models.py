"""Small models of ComfyUI's own classes with random weights, and what goes into them.

ComfyUI leaves its layers uninitialised, so every parameter is filled here from a private generator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..tools import random, relative  # noqa: F401  (tests of ComfyUI say models.random and models.relative)

CPU = torch.device("cpu")
# Where the models here compute (see conftest.py).
DEVICE = torch.device("cuda", 0) if os.environ.get("DEFT_TEST_DEVICE", "cpu").startswith("cuda") else CPU
TOKEN_WIDTH = 48  # of the conditioning that every model here takes
POOLED_WIDTH = 32


def generator(seed: int) -> torch.Generator:
    """A private generator."""
    return torch.Generator().manual_seed(seed)


def filled(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random weights that keep activations near 1: matrices by their fan-in, norms near 1, biases small."""
    source = generator(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=source)
        if len(shape) > 1:
            state[name] = values / shape[1:].numel() ** 0.5
        else:
            state[name] = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
    return state


@contextmanager
def with_all_weights() -> Iterator[None]:
    """Layers get their weights when they are made: with dynamic VRAM they would wait for those of a file."""
    import comfy.memory_management

    before = comfy.memory_management.aimdo_enabled
    comfy.memory_management.aimdo_enabled = False
    try:
        yield
    finally:
        comfy.memory_management.aimdo_enabled = before


def clip_of(target: Any, model_options: dict[str, Any]) -> Any:
    """A CLIP with weights that nobody has set."""
    import comfy.sd

    with with_all_weights():
        return comfy.sd.CLIP(target, model_options=model_options)


def sd3_state(seed: int = 0, depth: int = 1) -> dict[str, Tensor]:
    """The weights of an SD3 of 64 x depth channels for latents of up to 16 x 16."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": TOKEN_WIDTH, "out_features": 64 * depth}}
    with with_all_weights():
        network = OpenAISignatureMMDITWrapper(
            input_size=None,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            depth=depth,
            adm_in_channels=POOLED_WIDTH,
            num_patches=64,
            pos_embed_max_size=8,
            pos_embed_scaling_factor=None,
            qk_norm="rms",
            device="cpu",
            dtype=torch.float32,
            context_embedder_config=embedder,
            operations=comfy.ops.disable_weight_init,
        )
    return filled({name: value.shape for name, value in network.state_dict().items()}, seed)


def sd3(seed: int = 0, depth: int = 1, dtype: torch.dtype = torch.float32) -> Any:
    """A small SD3 as ComfyUI's loader makes it of its weights."""
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(sd3_state(seed, depth), model_options={"dtype": dtype})


SD15_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": TOKEN_WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}
SDXL_CONFIG: dict[str, Any] = SD15_CONFIG | {
    "transformer_depth": [0, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 2, 2],
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": POOLED_WIDTH + 6 * 256,
}


def unet(kind: str = "sd15", seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A small UNet: "sd15", "v" (the same with v-prediction) or "sdxl"."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    class SmallSD15(comfy.supported_models.SD15):
        unet_config: dict[str, Any] = {}
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

        def model_type(self, state_dict: Any, prefix: str = "") -> Any:
            types = comfy.model_base.ModelType
            return types.V_PREDICTION if kind == "v" else types.EPS

    class SmallSDXL(comfy.supported_models.SDXL):
        unet_config: dict[str, Any] = {}
        unet_extra_config = {"num_heads": -1, "num_head_channels": 32}

    config = SmallSDXL(SDXL_CONFIG) if kind == "sdxl" else SmallSD15(SD15_CONFIG)
    config.set_inference_dtype(dtype, None)
    with with_all_weights():
        model = config.get_model({}, "", device=CPU)
    state = filled({name: value.shape for name, value in model.diffusion_model.state_dict().items()}, seed)
    model.diffusion_model.load_state_dict(state)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=DEVICE, offload_device=CPU)


def channels(model: Any) -> int:
    """Latent channels of a model made here."""
    return model.model.latent_format.latent_channels


def latents(model: Any, count: int = 1, size: int = 8, seed: int = 1) -> dict[str, Tensor]:
    """A LATENT."""
    return {"samples": random(count, channels(model), size, size, seed=seed)}


def conditioning(seed: int = 2, tokens: int = 7) -> list:
    """A CONDITIONING of one caption."""
    return [[random(1, tokens, TOKEN_WIDTH, seed=seed), {"pooled_output": random(1, POOLED_WIDTH, seed=seed + 1)}]]


def network_inputs(model: Any, count: int = 1, seed: int = 3) -> dict[str, Tensor | None]:
    """Keyword arguments of the network itself: x, timesteps, context, y."""
    adm = model.model.model_config.unet_config.get("adm_in_channels")
    return {
        "x": random(count, channels(model), 8, 8, seed=seed),
        "timesteps": torch.tensor([311.0] * count),
        "context": random(count, 7, TOKEN_WIDTH, seed=seed + 1),
        "y": None if adm is None else random(count, adm, seed=seed + 2),
    }


def forward(model: Any, *args: Any, **kwargs: Any) -> Tensor:
    """What the network gives as it is, computed where the model is: a copy on the CPU."""
    args, kwargs = tree_map_only(Tensor, lambda value: value.to(model.load_device), (args, kwargs))
    return model.model.diffusion_model(*args, **kwargs).clone().cpu()


def network_output(model: Any, **inputs: Any) -> Tensor:
    """The raw output of the network of a model, loaded with its patches as for sampling."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        return forward(model, **(inputs or network_inputs(model)))


def sample(model: Any, seed: int = 5, steps: int = 2) -> Tensor:
    """A latent from ComfyUI's KSampler node."""
    import nodes

    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, channels(model), 8, 8)}
        positive, negative = conditioning(20), conditioning(30)
        return (
            nodes.KSampler()
            .sample(model, seed, steps, 3.0, "euler", "simple", positive, negative, latent)[0]["samples"]
            .clone()
        )


def weights(model: Any) -> dict[str, Tensor]:
    """Copies of all weights as they are now, by ComfyUI's keys."""
    return {name: value.clone().to(CPU) for name, value in model.model.state_dict().items()}


def patched_weights(model: Any) -> dict[str, Tensor]:
    """Copies of all weights with the patches in, made by ComfyUI's own patching, which is undone afterwards."""
    with torch.inference_mode():
        if model.is_dynamic():
            return dynamic_weights(model)
        model.patch_model(DEVICE)
        try:
            return weights(model)
        finally:
            model.unpatch_model(CPU)


def dynamic_weights(model: Any) -> dict[str, Tensor]:
    """Copies of all weights as ComfyUI's dynamic VRAM gives them to the layers."""
    import comfy.model_management
    import comfy.ops

    comfy.model_management.load_models_gpu([model])
    copies = weights(model)
    for name, module in model.model.named_modules():
        if hasattr(module, "_v"):
            place = {"device": DEVICE, "dtype": module.weight.dtype, "bias_dtype": module.weight.dtype}
            weight, bias, stream = comfy.ops.cast_bias_weight(module, offloadable=True, **place)
            copies[f"{name}.weight"] = weight.clone().to(CPU)
            if bias is not None:
                copies[f"{name}.bias"] = bias.clone().to(CPU)
            comfy.ops.uncast_bias_weight(module, weight, bias, stream)
    return copies


def deft_layers(
    shapes: dict[str, tuple[int, ...]],
    method: Any,
    rank: int = 4,
    seed: int = 10,
    alpha: float | None = 8,
    **options: Any,
) -> dict[str, dict[str, Tensor]]:
    """Random layers of a method of deft_ops, by name: its random start with everything else moved off zero."""
    layers, training = {}, method.training
    own = training.settings_of(alpha=alpha, **options)
    for index, (name, shape) in enumerate(shapes.items()):
        params = training.init(random(*shape, seed=seed), rank, own, generator(seed + index))
        moved = {
            key: value.detach() + 0.1 * torch.randn(value.shape, generator=generator(seed + 100 + index))
            for key, value in params.items()
        }
        layers[name] = method.to_tensors(training.factors(moved, own))
    return layers


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Random weights in a diffusers model."""
    state = filled({name: value.shape for name, value in network.state_dict().items()}, seed)
    network.load_state_dict(state)
    return network.eval()


def diffusers_sd15() -> nn.Module:
    """diffusers' UNet of the same configuration as unet("sd15")."""
    from diffusers import UNet2DConditionModel

    return fill(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TOKEN_WIDTH,
            attention_head_dim=2,
            norm_num_groups=32,
        ),
        seed=7,
    )


def diffusers_sdxl() -> nn.Module:
    """diffusers' UNet of the same configuration as unet("sdxl")."""
    from diffusers import UNet2DConditionModel

    return fill(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2],
            attention_head_dim=[1, 2],
            use_linear_projection=True,
            cross_attention_dim=TOKEN_WIDTH,
            norm_num_groups=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 256,
        ),
        seed=8,
    )


def diffusers_sd3(depth: int = 2) -> nn.Module:
    """diffusers' SD3 of the same configuration as sd3(depth=depth)."""
    from diffusers import SD3Transformer2DModel

    return fill(
        SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=depth,
            attention_head_dim=64,
            num_attention_heads=depth,
            joint_attention_dim=TOKEN_WIDTH,
            caption_projection_dim=64 * depth,
            pooled_projection_dim=POOLED_WIDTH,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
        ),
        seed=9,
    )


def comfy_sd15(network: nn.Module) -> Any:
    """ComfyUI's UNet with the weights of diffusers' one, by ComfyUI's own table."""
    import comfy.utils

    model = unet("sd15")
    state = network.state_dict()
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    converted = {key: state[name] for name, key in table.items() if name in state}
    assert len(converted) == len(state)
    model.model.diffusion_model.load_state_dict(converted)
    return model


def comfy_sd3(network: nn.Module) -> Any:
    """ComfyUI's SD3 of diffusers' weights: its own loader converts them."""
    import comfy.sd

    state = {name: value.clone() for name, value in network.state_dict().items()}
    return comfy.sd.load_diffusion_model_state_dict(state)


def every_layer(model: Any) -> list[str]:
    """Native names of all linear and convolution weights."""
    root = model.model.diffusion_model
    return [
        f"diffusion_model.{name}" for name, module in root.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
