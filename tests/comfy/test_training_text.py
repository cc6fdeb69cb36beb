"""Gradients of every text encoder's adapters against PEFT's in transformers' model of the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .architectures import tokens
from .test_architectures import ENCODERS
from .test_training import backward


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_those_of_transformers(comfyui_session: Any, text_pairs: Any, name: str) -> None:
    """All attention layers of the preset; ComfyUI's encoders add in place, which ordinary autograd does not survive."""
    import peft

    entry, network, clip = text_pairs(name)
    targets, training = (
        comfyui_session.module("trainers.settings.targets"),
        comfyui_session.module("trainers.step.network"),
    )
    low_rank = comfyui_session.module("deft_ops.changes").LowRank
    table = comfyui_session.module("models.names").clip_names(clip)
    root = clip.patcher.model
    chosen = [layer for layer in targets.select(root, "attention") if layer.startswith(f"{entry.part}.")]
    paths = {
        table[f"{entry.component}.{path}"].removesuffix(".weight"): path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and f"{entry.component}.{path}" in table
    }
    assert len(chosen) >= 4
    assert all(layer in paths for layer in chosen)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=[paths[layer] for layer in chosen])
    wrapped = peft.get_peft_model(copy.deepcopy(network), config)
    source = models.generator(5)
    values: dict[str, dict[str, nn.Parameter]] = {layer: {} for layer in chosen}
    layer_of = {f"base_model.model.{path}": layer for layer, path in paths.items()}
    for full, parameter in wrapped.named_parameters():
        for kind in ("lora_A", "lora_B"):
            if f".{kind}." in full:
                values[layer_of[full.partition(f".{kind}.")[0]]][kind] = parameter
                with torch.no_grad():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=source))
    own = {
        layer: {kind: value.detach().clone().requires_grad_() for kind, value in pair.items()}
        for layer, pair in values.items()
    }
    ids = tokens(network)
    expected = wrapped(ids).last_hidden_state
    weights = torch.randn(expected.shape, generator=source)
    (expected * weights).sum().backward()
    changes = {layer: lambda pair=pair: low_rank(pair["lora_B"], pair["lora_A"]) for layer, pair in own.items()}
    outputs = []

    def output() -> Tensor:
        transformer = getattr(clip.cond_stage_model, entry.part).transformer
        outputs.append(transformer(ids, attention_mask=torch.ones_like(ids), dtype=torch.float32)[0])
        return (outputs[-1] * weights).sum()

    leaves = [value for pair in own.values() for value in pair.values()]
    with torch.inference_mode(False), torch.enable_grad(), training.frozen(root, changes):
        backward(comfyui_session.module("trainers.step.repairs").Repairs(name), output, leaves)
    last_output = outputs[-1]
    assert models.relative(last_output.detach(), expected.detach()) < 1e-4
    checked = 0
    for layer in chosen:
        for kind, value in values[layer].items():
            if value.grad is None or float(value.grad.norm()) == 0:
                continue  # what the last hidden state does not depend on
            assert models.relative(own[layer][kind].grad, value.grad) < 1e-3, (layer, kind)
            checked += 1
    assert checked > len(chosen)
