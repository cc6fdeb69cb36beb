"""PEFT's LoHa, LoKr, OFT, DoRA and LoRA on ComfyUI's weights are what PEFT merges; other programs' files land there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import models
from .test_patches import Pack

NAME = "transformer_blocks.0.attn.to_out.0"
KEY = "diffusion_model.joint_blocks.0.x_block.attn.proj.weight"


@pytest.fixture(scope="session")
def pack(comfyui_session: Any) -> Pack:
    return Pack(comfyui_session)


def peft_on(base: Tensor, config: Any, folder: Path) -> Tensor:
    """A random adapter of PEFT on a linear layer of SD3's name, saved; the merged weight."""
    import peft

    attention = nn.Module()
    attention.to_out = nn.ModuleList([nn.Linear(*reversed(base.shape), bias=False)])
    block = nn.Module()
    block.attn = attention
    network = nn.Module()
    network.transformer_blocks = nn.ModuleList([block])
    attention.to_out[0].weight.data.copy_(base)
    wrapped = peft.get_peft_model(network, config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.3 * models.random(*parameter.shape, seed=40 + index))
    wrapped.save_pretrained(folder)
    wrapped.merge_adapter()
    return wrapped.get_submodule(f"base_model.model.{NAME}").get_base_layer().weight.detach()


def configurations() -> dict[str, Any]:
    import peft

    common = {"target_modules": [NAME]}
    return {
        "loha": peft.LoHaConfig(r=4, alpha=6, **common),
        "loha-pattern": peft.LoHaConfig(r=4, alpha=6, alpha_pattern={NAME: 3}, rank_pattern={NAME: 2}, **common),
        "lokr": peft.LoKrConfig(r=4, alpha=6, **common),
        "lokr-both": peft.LoKrConfig(r=2, alpha=6, decompose_both=True, **common),
        "lokr-full": peft.LoKrConfig(r=64, alpha=32, **common),
        "oft": peft.OFTConfig(r=0, oft_block_size=8, **common),
        "dora": peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, **common),
        "lora": peft.LoraConfig(r=4, lora_alpha=6, **common),
    }


@pytest.mark.parametrize("kind", ["loha", "loha-pattern", "lokr", "lokr-both", "lokr-full", "oft", "dora", "lora"])
def test_peft_files_do_what_peft_merges(pack: Pack, tmp_path: Path, kind: str) -> None:
    model = models.sd3()
    base = models.weights(model)[KEY]
    merged = peft_on(base, configurations()[kind], tmp_path)
    assert models.relative(merged, base) > 1e-2
    patched, _, report = pack.apply(pack.files.read(tmp_path), model)
    assert report.matched == 1 and not report.unmatched
    assert list(report.methods) == [kind.partition("-")[0]]
    assert models.relative(models.patched_weights(patched)[KEY], merged) < 1e-5
    half = models.patched_weights(pack.apply(pack.files.read(tmp_path), model, strength_model=0.5)[0])[KEY]
    assert models.relative(half, base + 0.5 * (merged - base)) < 1e-5


def test_lycoris_dora_follows_its_authors(pack: Pack, tmp_path: Path) -> None:
    """The norm is the merged weight's, in both directions; ComfyUI's own loader takes the base's for rows."""
    model = models.sd3()
    base = models.weights(model)[KEY]
    up, down = 0.3 * models.random(64, 4, seed=1), 0.3 * models.random(4, 64, seed=2)
    V = base + 2 * up @ down
    for shape, dim in (((64, 1), 1), ((1, 64), 0)):
        scale = models.random(*shape, seed=3).abs() + 0.5
        name = "lora_unet_joint_blocks_0_x_block_attn_proj"
        tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(8.0),
                   f"{name}.dora_scale": scale}
        save_file(tensors, tmp_path / "a.safetensors")
        patched, _, report = pack.apply(pack.files.read(tmp_path / "a.safetensors"), model)
        assert report.methods == {"dora": 1}
        expected = V * scale / V.norm(dim=dim, keepdim=True)
        assert models.relative(models.patched_weights(patched)[KEY], expected) < 1e-5


@pytest.mark.parametrize("key", [
    "unet.{}.lora.up.weight", "{}.lora_linear_layer.up.weight", "unet.{}.lora_B.weight",
    "base_model.model.{}.lora_B.weight", "unet.base_model.model.{}.lora_B.default.weight", "{}.lora_up.weight"])
def test_lora_of_diffusers_names_on_a_unet(pack: Pack, tmp_path: Path, key: str) -> None:
    """Names that ComfyUI itself does not map for Stable Diffusion 1.5 and XL."""
    model = models.unet()
    weight_key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    base = models.weights(model)[weight_key]
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    up, down = models.random(base.shape[0], 2, seed=1), models.random(2, base.shape[1], seed=2)
    other = key.replace("up", "down").replace("lora_B", "lora_A")
    save_file({key.format(path): up, other.format(path): down}, tmp_path / "a.safetensors")
    patched, _, report = pack.apply(pack.files.read(tmp_path / "a.safetensors"), model)
    assert report.matched == 1 and not report.unmatched
    assert models.relative(models.patched_weights(patched)[weight_key], base + up @ down) < 1e-6


def test_svdiff_on_a_unet_with_norms_and_convolutions(pack: Pack, tmp_path: Path) -> None:
    from torch.nn.functional import relu

    model = models.unet()
    names = model_names(pack, model)
    weights = models.weights(model)
    shifts = {}
    for name, key in names.items():
        shape = weights[key].shape
        size = 1 if len(shape) == 1 else min(shape[0], shape[1:].numel())
        shifts[f"{name}.delta"] = 0.2 * models.random(size, seed=len(shifts))
    save_file(shifts, tmp_path / "spectral_shifts.safetensors")
    patched, _, report = pack.apply(pack.files.read(tmp_path), model, strength_model=0.7)
    assert report.methods == {"svdiff": len(names)} and not report.unmatched
    found = models.patched_weights(patched)
    for name, key in names.items():
        W = weights[key]
        U, S, Vh = torch.linalg.svd(W.flatten(1) if W.ndim > 1 else W[None], full_matrices=False)
        expected = (U @ torch.diag(relu(S + 0.7 * shifts[f"{name}.delta"])) @ Vh).reshape(W.shape)
        assert models.relative(found[key], expected) < 1e-4, name


def model_names(pack: Pack, model: Any) -> dict[str, str]:
    """A few layers of each kind by their names in diffusers: linear, convolution, norm."""
    names = pack.comfyui.module("patches.names").diffusers_names(model)
    wanted = ("conv_in", "down_blocks.0.resnets.0.norm1", "down_blocks.0.resnets.0.conv1",
              "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
              "down_blocks.0.attentions.0.transformer_blocks.0.norm1", "time_embedding.linear_1")
    return {name: names[name] for name in wanted}
