"""Layer names of diffusers and PEFT on ComfyUI's models, checked against small models of diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models

UNET_PREFIXES = ("", "unet.", "base_model.model.", "unet.base_model.model.")
TRANSFORMER_PREFIXES = ("", "transformer.", "base_model.model.", "transformer.base_model.model.")
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Random weights in a diffusers model."""
    state = models.filled({name: value.shape for name, value in network.state_dict().items()}, seed)
    network.load_state_dict(state)
    return network.eval()


def diffusers_sd15() -> nn.Module:
    """diffusers' UNet of the same configuration as models.unet("sd15")."""
    from diffusers import UNet2DConditionModel

    return fill(UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=models.TOKEN_WIDTH, attention_head_dim=2, norm_num_groups=32), seed=7)


def diffusers_sdxl() -> nn.Module:
    """diffusers' UNet of the same configuration as models.unet("sdxl")."""
    from diffusers import UNet2DConditionModel

    return fill(UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2], attention_head_dim=[1, 2], use_linear_projection=True,
        cross_attention_dim=models.TOKEN_WIDTH, norm_num_groups=32, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=models.POOLED_WIDTH + 6 * 256), seed=8)


def diffusers_sd3(depth: int = 2) -> nn.Module:
    """diffusers' SD3 of the same configuration as models.sd3(depth=depth)."""
    from diffusers import SD3Transformer2DModel

    return fill(SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=depth, attention_head_dim=64,
        num_attention_heads=depth, joint_attention_dim=models.TOKEN_WIDTH, caption_projection_dim=64 * depth,
        pooled_projection_dim=models.POOLED_WIDTH, pos_embed_max_size=8, qk_norm="rms_norm"), seed=9)


def comfy_sd15(network: nn.Module) -> Any:
    """ComfyUI's UNet with the weights of diffusers' one, by ComfyUI's own table."""
    import comfy.utils

    model = models.unet("sd15")
    state = network.state_dict()
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    converted = {key: state[name] for name, key in table.items() if name in state}
    assert len(converted) == len(state)
    model.model.diffusion_model.load_state_dict(converted)
    return model


def comfy_sd3(network: nn.Module) -> Any:
    """ComfyUI's SD3 of diffusers' weights: its own loader converts them."""
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict({name: value.clone() for name, value in network.state_dict().items()})


def target_shape(names_module: Any, model: Any, target: Any) -> tuple[int, ...]:
    """The shape of a target, slice or not."""
    weight = model.model.state_dict()[names_module.target_key(target)]
    part = names_module.target_slice(target)
    return tuple((weight if part is None else weight.narrow(*part)).shape)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_every_layer_of_diffusers_is_found(comfyui_session: Any, kind: str) -> None:
    names_module = comfyui_session.module("patches.names")
    network, model, prefixes = {
        "sd15": lambda: (diffusers_sd15(), models.unet("sd15"), UNET_PREFIXES),
        "sdxl": lambda: (diffusers_sdxl(), models.unet("sdxl"), UNET_PREFIXES),
        "sd3": lambda: (diffusers_sd3(), models.sd3(depth=2), TRANSFORMER_PREFIXES),
    }[kind]()
    names = names_module.model_names(model)
    attention = 0
    for layer, module in network.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        attention += ".attn" in layer
        for prefix in prefixes:
            assert prefix + layer in names, prefix + layer
            assert target_shape(names_module, model, names[prefix + layer]) == tuple(module.weight.shape), layer
    assert attention == {"sd15": 4 * 8, "sdxl": 8 * 8, "sd3": 2 * 8 - 1}[kind]


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_names_on_the_way_out_are_those_of_diffusers(comfyui_session: Any, kind: str) -> None:
    names_module = comfyui_session.module("patches.names")
    network, model = ((diffusers_sd15(), models.unet("sd15")) if kind == "sd15" else
                      (diffusers_sd3(), models.sd3(depth=2)))
    ways_out = names_module.module_names(model)
    targets = names_module.model_names(model)
    known = {layer for layer, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    whole = {layer for layer in known if names_module.target_slice(targets[layer]) is None}
    back = {ways_out[names_module.target_key(targets[layer]).removesuffix(".weight")] for layer in whole}
    assert back == whole and len(whole) > 10


def test_describe() -> None:
    from deft_pack.patches.names import describe

    assert describe({"a": 1}) == "a"
    assert describe(dict.fromkeys("abc")) == "a, b, ..."


def peft_adapter(network: nn.Module, folder: Path, targets: list[str], **options: Any) -> Any:
    """Put a random PEFT DEFT adapter on the diffusers model, and save it."""
    import peft

    config = peft.DeftConfig(r=4, decomposition_method="qr", target_modules=targets, **options)
    wrapped = peft.get_peft_model(network, config)
    for index, (name, parameter) in enumerate(wrapped.named_parameters()):
        if "deft_" in name:
            scale = 0.3 if "deft_P" in name else 0.05
            parameter.data.copy_(scale * models.random(*parameter.shape, seed=500 + index))
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.mark.parametrize("options", [{"alpha": 6}, {"para": True}], ids=["deft", "para"])
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_peft_file_does_the_same_in_comfyui_and_in_diffusers(
    comfyui_session: Any, tmp_path: Path, kind: str, options: dict
) -> None:
    network = diffusers_sd15() if kind == "sd15" else diffusers_sd3()
    model = comfy_sd15(network) if kind == "sd15" else comfy_sd3(network)
    inputs = models.network_inputs(model)

    def diffusers_output() -> Tensor:
        with torch.no_grad():
            extra = {} if kind == "sd15" else {"pooled_projections": inputs["y"]}
            return network(inputs["x"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"],
                           **extra).sample

    plain = diffusers_output()
    assert models.relative(models.network_output(model, **inputs), plain) < 1e-5

    wrapped = peft_adapter(network, tmp_path, PROJECTIONS, **options)
    layers = sum(name.endswith("deft_P.default") for name, _ in wrapped.named_parameters())
    expected = diffusers_output()
    assert models.relative(expected, plain) > 1e-2

    adapter = comfyui_session.module("deft_ops.files").read(tmp_path)
    patched, _, report = comfyui_session.module("patches.apply").apply(adapter, model)
    assert report.matched == layers == (32 if kind == "sd15" else 8) and not report.unmatched
    assert models.relative(models.network_output(patched, **inputs), expected) < 1e-4


def test_a_file_of_diffusers_with_its_record_in_the_header(comfyui_session: Any, tmp_path: Path) -> None:
    """What our PEFT writer makes for pipelines ("unet." before all names) is applied to the same layers."""
    model = models.unet("sd15")
    names = comfyui_session.module("patches.names").module_names(model)
    layers = [f"diffusion_model.{name}" for name, module in model.model.diffusion_model.named_modules()
              if isinstance(module, nn.Linear)]
    methods = comfyui_session.module("deft_ops.methods")
    shapes = {name: tuple(model.model.state_dict()[f"{name}.weight"].shape) for name in layers}
    adapter = comfyui_session.module("deft_ops.adapter").from_layers(models.deft_layers(shapes, methods.get("deft")))
    path = comfyui_session.module("deft_ops.files.peft").write_diffusers(
        adapter, tmp_path / "pytorch_lora_weights.safetensors", names, prefix="unet")
    apply = comfyui_session.module("patches.apply").apply
    again, _, report = apply(comfyui_session.module("deft_ops.files").read(path), model)
    assert report.matched == len(layers) and not report.unmatched
    expected = models.network_output(apply(adapter, model)[0])
    assert models.relative(models.network_output(again), expected) < 1e-5
