"""The same PEFT adapter in diffusers and in ComfyUI: every layer is found, and the networks give the same output."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .architectures import (
    ARCHITECTURES,
    BY_NAME,
    TEXT_ENCODERS,
    Architecture,
    TextEncoder,
    call_text_model,
    call_transformers,
    small,
)

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NAMES = [architecture.name for architecture in ARCHITECTURES]


@dataclass
class Pair:
    """A diffusers model and ComfyUI's with its weights."""

    architecture: Architecture
    network: nn.Module
    model: Any
    plain: Tensor

    def output(self, network: nn.Module) -> Tensor:
        """The prediction of the diffusers model, as it is or wrapped."""
        with torch.no_grad():
            return self.architecture.call_diffusers(network)


def convert(architecture: Architecture, network: nn.Module, model: Any, names: Any) -> None:
    """Write a diffusers model's weights into ComfyUI's network by the table; each place is written once."""
    table = names.diffusers_names(model)
    state = {key: torch.full_like(value, torch.nan) for key, value in model.model.diffusion_model.state_dict().items()}
    for name, value in network.state_dict().items():
        if name in architecture.parameters:
            key, part, function = architecture.parameters[name], None, None
        else:
            layer, _, ending = name.rpartition(".")
            target = table[layer]
            key = names.target_key(target).removeprefix("diffusion_model.").removesuffix("weight") + ending
            part, function = names.target_slice(target), names.target_function(target)
        place = state[key] if part is None else state[key].narrow(*part)
        value = value if function is None else function(value)
        assert place.shape == value.shape, name
        assert bool(place.isnan().all()), f"{name} is written over another"
        place.copy_(value)
    left = [key for key, value in state.items() if value.isnan().any()]
    unused = [key for key in left if re.fullmatch(architecture.unused, key)]
    assert left == unused
    model.model.diffusion_model.load_state_dict({key: value.nan_to_num() for key, value in state.items()})


def pair_of(name: str, names: Any) -> Pair:
    """Both models of an architecture by its name."""
    import comfy.supported_models

    architecture = ARCHITECTURES[NAMES.index(name)]
    missing = [base for base in architecture.bases if not hasattr(comfy.supported_models, base)]
    assert not missing, f"this ComfyUI has no {missing}"
    network, model = architecture.diffusers(), architecture.comfyui()
    convert(architecture, network, model, names)
    pair = Pair(architecture, network, model, torch.empty(0))
    pair.plain = pair.output(network)
    return pair


@pytest.mark.parametrize("name", NAMES)
def test_both_networks_are_the_same_without_an_adapter(architecture_pairs: Any, name: str) -> None:
    pair = architecture_pairs(name)
    assert models.relative(pair.architecture.call_comfyui(pair.model), pair.plain) < 1e-5


# The original's numbers of HunyuanDiT's norms, which differ from diffusers', are ComfyUI's meaning behind these
# prefixes: Tencent's own adapter files, and ComfyUI's native names.
CLASHES = {("HunyuanDiT", prefix): r"blocks\.\d+\.norm[23]" for prefix in ("base_model.model.", "diffusion_model.")}
UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_found_under_every_prefix(architecture_pairs: Any, comfyui_session: Any, name: str) -> None:
    pair = architecture_pairs(name)
    names = comfyui_session.module("models.names")
    table, keys = names.diffusers_names(pair.model), names.model_names(pair.model)
    component = "unet" if hasattr(pair.network, "mid_block") else "transformer"
    layers = [layer for layer, module in pair.network.named_modules() if getattr(module, "weight", None) is not None]
    assert set(layers) == set(table)
    for layer in layers:
        for prefix in ("", "base_model.model.", f"{component}.", f"{component}.base_model.model.", "diffusion_model."):
            clash = CLASHES.get((name.split()[0], prefix), r"$^")
            assert keys[prefix + layer] == table[layer] or re.fullmatch(clash, layer), prefix + layer
    for layer, module in pair.network.named_modules():
        if isinstance(module, LAYERS):
            for prefix in UNDERSCORED:
                assert keys[prefix + layer.replace(".", "_")] == table[layer], prefix + layer


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_s_own_names_and_the_original_ones(architecture_pairs: Any, comfyui_session: Any, name: str) -> None:
    import comfy.lora

    model = architecture_pairs(name).model
    names = comfyui_session.module("models.names")
    table, keys = names.diffusers_names(model), names.model_names(model)
    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    for layer, target in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        key, part = names.target_key(target), names.target_slice(target)
        if key not in shapes:
            continue
        if part is not None and part[1] + part[2] > shapes[key][part[0]]:
            # ComfyUI takes Lumina 2 for Z-Image here, whose key and value have as many rows as the query.
            assert name == "Lumina 2", layer
            assert layer not in keys, layer
        else:
            assert keys[layer] == target, layer
    paths = [key.removeprefix("diffusion_model.").removesuffix(".weight") for key in shapes if key.endswith(".weight")]
    for path in paths:
        assert keys[f"model.diffusion_model.{path}"] == f"diffusion_model.{path}.weight"
        if path not in table:
            assert keys[path] == keys[f"base_model.model.{path}"] == f"diffusion_model.{path}.weight"


@pytest.mark.parametrize("name", NAMES)
def test_names_on_the_way_out_are_those_of_diffusers(architecture_pairs: Any, comfyui_session: Any, name: str) -> None:
    pair = architecture_pairs(name)
    names = comfyui_session.module("models.names")
    table, ways_out = names.diffusers_names(pair.model), names.module_names(pair.model)
    same = {layer: target for layer, target in table.items() if isinstance(target, str)}
    assert ways_out == {target.removesuffix(".weight"): layer for layer, target in same.items()}
    assert len(ways_out) == len(same) > 10
    modules = dict(pair.network.named_modules())
    state = pair.model.model.state_dict()
    for native, layer in ways_out.items():
        assert torch.equal(modules[layer].weight, state[f"{native}.weight"]), native


def adapted(network: nn.Module, config: Any, folder: Path, without: str) -> tuple[nn.Module, int]:
    """A model with a random adapter of PEFT on all layers that it can be on, saved, and how many they are.

    LoRA goes on convolutions too; PEFT's DEFT has none for them.
    """
    import peft

    kinds = LAYERS if isinstance(config, peft.LoraConfig) else nn.Linear
    targets = [
        layer
        for layer, module in network.named_modules()
        if isinstance(module, kinds) and not re.fullmatch(without, layer)
    ]
    config.target_modules = targets
    wrapped = peft.get_peft_model(copy.deepcopy(network), config)
    for index, (name, parameter) in enumerate(wrapped.named_parameters()):
        if "deft_" in name or "lora_" in name:
            scale = 0.3 if "deft_P" in name else 0.05
            parameter.data.copy_(scale * models.random(*parameter.shape, seed=500 + index))
    wrapped.save_pretrained(folder)
    return wrapped, len(targets)


METHODS = ["deft", "para", "lora"]


def configuration(method: str) -> Any:
    """PEFT's configuration of a method."""
    import peft

    if method == "lora":
        return peft.LoraConfig(r=4, lora_alpha=6)
    return peft.DeftConfig(r=4, decomposition_method="qr", **({"para": True} if method == "para" else {"alpha": 6}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_does_the_same_in_both(
    architecture_pairs: Any,
    comfyui_session: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    name: str,
    method: str,
) -> None:
    pair = architecture_pairs(name)
    wrapped, layers = adapted(pair.network, configuration(method), tmp_path, pair.architecture.without_effect)
    expected = pair.output(wrapped)
    assert models.relative(expected, pair.plain) > 1e-2

    adapter = comfyui_session.module("deft_ops.files").read(tmp_path)
    patched, _, report = comfyui_session.module("patches.apply").apply(adapter, pair.model)
    assert report.matched == layers
    assert not report.unmatched
    error = models.relative(pair.architecture.call_comfyui(patched), expected)
    request.node.user_properties.append(("error", error))  # for the table in docs/architectures.md: --junitxml
    assert error < 1e-4


@pytest.mark.parametrize("entry", BY_NAME, ids=[entry[0] for entry in BY_NAME])
def test_names_and_sizes_alone(comfyui_session: Any, entry: Any) -> None:
    import diffusers

    _, base, config, kind, options = entry
    names = comfyui_session.module("models.names")
    meta = torch.device("meta")
    with meta:
        model, network = small(base, config, device=meta), getattr(diffusers, kind)(**options)
    table = names.diffusers_names(model)
    state = model.model.state_dict()
    layers = {layer: module for layer, module in network.named_modules() if getattr(module, "weight", None) is not None}
    for layer, module in layers.items():
        assert state[table[layer]].shape == module.weight.shape, layer
    assert len(layers) > 10
    assert set(table.values()) == {key for key in state if key.endswith(".weight")}


def text_pair_of(name: str, names_of: Any) -> tuple[TextEncoder, nn.Module, Any]:
    """transformers' model and ComfyUI's CLIP with its weights, by the entry's name."""
    entry = next(entry for entry in TEXT_ENCODERS if entry.name == name)
    network, clip = entry.transformers(), entry.clip()
    names = names_of(clip)
    own = clip.cond_stage_model.state_dict()
    state = {key: torch.full_like(value, torch.nan) for key, value in own.items()}
    for tensor, value in network.state_dict().items():
        layer, _, ending = tensor.rpartition(".")
        if layer == "encoder.embed_tokens" or re.fullmatch(entry.lacks, layer):
            continue  # the first is the same tensor as "shared"
        key = names[f"{entry.component}.{layer}"].removesuffix("weight") + ending
        assert state[key].shape == value.shape, tensor
        assert bool(state[key].isnan().all()), tensor
        state[key].copy_(value)
    head = f"{entry.part}.transformer."
    left = {key.removeprefix(head) for key, value in state.items() if key.startswith(head) and value.isnan().any()}
    assert left <= {"text_projection.weight"}
    clip.cond_stage_model.load_state_dict({key: value.nan_to_num() for key, value in state.items()})
    return entry, network, clip


ENCODERS = [entry.name for entry in TEXT_ENCODERS]


@pytest.mark.parametrize("name", ENCODERS)
def test_every_layer_of_a_text_encoder_is_found(text_pairs: Any, comfyui_session: Any, name: str) -> None:
    entry, network, clip = text_pairs(name)
    keys = comfyui_session.module("models.names").clip_names(clip)
    state = clip.cond_stage_model.state_dict()
    assert models.relative(call_text_model(clip, entry.part, network), call_transformers(network)) < 1e-5
    for layer, module in network.named_modules():
        if not isinstance(module, nn.Linear) or re.fullmatch(entry.lacks, layer):
            continue
        prefixes = [f"{entry.component}.", f"{entry.component}.base_model.model."]
        for prefix in prefixes + (["", "base_model.model."] if entry.bare else []):
            key = keys[prefix + layer]
            assert key.startswith(f"{entry.part}."), prefix + layer
            assert state[key].shape == module.weight.shape, prefix + layer
        if not entry.bare:
            assert not keys[layer].startswith(f"{entry.part}."), layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENCODERS)
def test_an_adapter_of_a_text_encoder_does_the_same_in_both(
    text_pairs: Any, comfyui_session: Any, tmp_path: Path, request: pytest.FixtureRequest, name: str, method: str
) -> None:
    entry, network, clip = text_pairs(name)
    wrapped, layers = adapted(network, configuration(method), tmp_path, entry.lacks)
    expected = call_transformers(wrapped)
    assert models.relative(expected, call_transformers(network)) > 1e-2

    adapter = comfyui_session.module("deft_ops.files").read(tmp_path)
    if not entry.bare:  # a file of a pipeline says which text encoder it is for
        renamed = {f"{entry.component}.{key}": value for key, value in adapter.items()}
        adapter = type(adapter)(renamed, adapter.metadata)
    _, patched, report = comfyui_session.module("patches.apply").apply(adapter, None, clip)
    assert report.matched == layers
    assert not report.unmatched
    error = models.relative(call_text_model(patched, entry.part, network), expected)
    request.node.user_properties.append(("error", error))
    assert error < 1e-4
