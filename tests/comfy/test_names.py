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


def target_shape(names_module: Any, model: Any, target: Any) -> tuple[int, ...]:
    """The shape of a target, slice or not."""
    weight = model.model.state_dict()[names_module.target_key(target)]
    part = names_module.target_slice(target)
    return tuple((weight if part is None else weight.narrow(*part)).shape)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_every_layer_of_diffusers_is_found(comfyui_session: Any, kind: str) -> None:
    names_module = comfyui_session.module("patches.names")
    network, model, prefixes = {
        "sd15": lambda: (models.diffusers_sd15(), models.unet("sd15"), UNET_PREFIXES),
        "sdxl": lambda: (models.diffusers_sdxl(), models.unet("sdxl"), UNET_PREFIXES),
        "sd3": lambda: (models.diffusers_sd3(), models.sd3(depth=2), TRANSFORMER_PREFIXES),
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
    network, model = ((models.diffusers_sd15(), models.unet("sd15")) if kind == "sd15" else
                      (models.diffusers_sd3(), models.sd3(depth=2)))
    ways_out = names_module.module_names(model)
    targets = names_module.model_names(model)
    known = {layer for layer, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    whole = {layer for layer in known if names_module.target_slice(targets[layer]) is None}
    back = {ways_out[names_module.target_key(targets[layer]).removesuffix(".weight")] for layer in whole}
    assert back == whole and len(whole) > 10


def test_describe(comfyui_session: Any) -> None:
    describe = comfyui_session.module("patches.names").describe
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
    network = models.diffusers_sd15() if kind == "sd15" else models.diffusers_sd3()
    model = models.comfy_sd15(network) if kind == "sd15" else models.comfy_sd3(network)
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
    assert models.relative(models.network_output(again), expected) < 1e-4  # Q is factorised once more
