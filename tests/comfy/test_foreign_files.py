"""PEFT's LoHa, LoKr, OFT, DoRA and LoRA on ComfyUI's weights are what PEFT merges; other programs' files land there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import models
from .pack import Pack

NAME = "transformer_blocks.0.attn.to_out.0"
KEY = "diffusion_model.joint_blocks.0.x_block.attn.proj.weight"


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
    assert report.matched == 1
    assert not report.unmatched
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
        tensors = {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_down.weight": down,
            f"{name}.alpha": torch.tensor(8.0),
            f"{name}.dora_scale": scale,
        }
        save_file(tensors, tmp_path / "a.safetensors")
        patched, _, report = pack.apply(pack.files.read(tmp_path / "a.safetensors"), model)
        assert report.methods == {"dora": 1}
        expected = V * scale / V.norm(dim=dim, keepdim=True)
        assert models.relative(models.patched_weights(patched)[KEY], expected) < 1e-5


@pytest.mark.parametrize(
    "key",
    [
        "unet.{}.lora.up.weight",
        "{}.lora_linear_layer.up.weight",
        "unet.{}.lora_B.weight",
        "base_model.model.{}.lora_B.weight",
        "unet.base_model.model.{}.lora_B.default.weight",
        "{}.lora_up.weight",
    ],
)
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
    assert report.matched == 1
    assert not report.unmatched
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
    assert report.methods == {"svdiff": len(names)}
    assert not report.unmatched
    shifted = models.patched_weights(patched)
    for name, key in names.items():
        W = weights[key]
        U, S, Vh = torch.linalg.svd(W.flatten(1) if W.ndim > 1 else W[None], full_matrices=False)
        expected = (U @ torch.diag(relu(S + 0.7 * shifts[f"{name}.delta"])) @ Vh).reshape(W.shape)
        assert models.relative(shifted[key], expected) < 1e-4, name


def model_names(pack: Pack, model: Any) -> dict[str, str]:
    """A few layers of each kind by their names in diffusers: linear, convolution, norm."""
    names = pack.names.diffusers_names(model)
    layers = (
        "conv_in",
        "down_blocks.0.resnets.0.norm1",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.0.transformer_blocks.0.norm1",
        "time_embedding.linear_1",
    )
    return {name: names[name] for name in layers}


# -------------------------------------------------------------------------------------------- the DEFT repository, SDXL


def authors_weight(layer: dict[str, Tensor], W: Tensor, ortho: bool) -> Tensor:
    """The weight in the forward of dreambench_plus/modules/main.py of the DEFT repository."""
    gate = torch.sigmoid(layer["gate"]) if "gate" in layer else 1.0
    if "lora_A" in layer:
        return W + layer["lora_A"] @ layer["lora_B"] * (8.0 / len(layer["lora_B"])) * gate
    Q = torch.linalg.qr(layer["P"]).Q if ortho else layer["P"]
    return W - (Q @ Q.T) @ W + Q @ layer["R_new"] * gate


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(("kind", "projector"), [("deft", "auto"), ("deft", "qr"), ("lora", "auto")])
def test_the_deft_repositorys_files_do_what_its_layers_compute(
    pack: Pack, tmp_path: Path, kind: str, projector: str, gate: bool
) -> None:
    """Compared on a UNet's weights, and after it was saved as a native file."""
    model = models.unet()
    names = {name: key for name, key in model_names(pack, model).items() if name.endswith("to_q")}
    names["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"] = (
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight"
    )
    weights = models.weights(model)
    expected, tensors = {}, {}
    for index, (name, key) in enumerate(names.items()):
        out, inputs = weights[key].shape
        layer = {"P": 0.3 * models.random(out, 4, seed=index), "R_new": models.random(4, inputs, seed=10 + index)}
        if kind == "lora":
            layer |= {
                "lora_A": 0.3 * models.random(out, 4, seed=20 + index),
                "lora_B": models.random(4, inputs, seed=30 + index),
            }
        if gate:
            layer["gate"] = torch.tensor([0.7])
        tensors |= {f"{name}.lora_layer.{part}": tensor for part, tensor in layer.items()}
        expected[key] = authors_weight(layer, weights[key], projector == "qr")
        assert models.relative(expected[key], weights[key]) > 1e-2
    torch.save(tensors, tmp_path / "project_replace.pt")
    adapter = pack.files.read(tmp_path, projector)
    patched, _, report = pack.apply(adapter, model)
    assert report.methods == {kind: 2}
    assert not report.unmatched
    native = pack.files.native.write(adapter, tmp_path / "native" / "a.safetensors")
    again = pack.apply(pack.files.read(native), model)[0]
    for key, value in expected.items():
        assert models.relative(models.patched_weights(patched)[key], value) < 1e-5
        assert models.relative(models.patched_weights(again)[key], value) < 1e-5


# ------------------------------------------------------------------------------------------- PEFT's DEFT, no record


@pytest.mark.parametrize("projector", ["relu", "qr"])
def test_the_loaded_base_tells_pefts_projector(pack: Pack, tmp_path: Path, projector: str) -> None:
    """Told by the weights under diffusers' names, on the slices that ComfyUI fuses; what another base does not tell."""
    import peft

    model = models.sd3()
    weights = models.weights(model)
    key = "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
    attention = nn.Module()
    slices = {"to_q": slice(0, 64), "to_v": slice(128, 192)}
    for name, rows in slices.items():
        setattr(attention, name, nn.Linear(64, 64, bias=False))
        getattr(attention, name).weight.data.copy_(weights[key][rows])
    block = nn.Module()
    block.attn = attention
    network = nn.Module()
    network.transformer_blocks = nn.ModuleList([block])
    config = peft.DeftConfig(r=4, decomposition_method=projector, target_modules=list(slices))
    wrapped = peft.get_peft_model(network, config)
    for index, parameter in enumerate(wrapped.parameters()):
        if parameter.requires_grad:
            size = parameter.data.abs().mean()
            parameter.data.add_(0.1 * size * models.random(*parameter.shape, seed=50 + index))
    wrapped.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    path = (tmp_path / "adapter_model.safetensors").rename(tmp_path / "bare.safetensors")
    wrapped.merge_adapter()
    weights_by_name = pack.models.weights_by_name.weights_by_name
    adapter = pack.files.read(path, base=weights_by_name(model))
    assert f"{projector} is assumed" in adapter.metadata["note"]
    weight = models.patched_weights(pack.apply(adapter, model)[0])[key]
    for name, rows in slices.items():
        change = getattr(attention, name).get_base_layer().weight.detach() - weights[key][rows]
        assert change.norm() > 1e-4 * weights[key][rows].norm()
        assert models.relative(weight[rows] - weights[key][rows], change) < 1e-2
    # A patched model tells the same: its weights before any patch are looked at.
    patched = pack.apply(adapter, model)[0]
    models.patched_weights(patched)
    assert pack.files.read(path, base=weights_by_name(patched)).metadata["projector"] == projector
    with pytest.raises(ValueError, match=r"bare.safetensors has no record of its projector"):
        pack.files.read(path, base=weights_by_name(models.unet()))
    target = pack.comfyui.base / "models" / "loras" / f"bare_{projector}.safetensors"
    path.rename(target)
    try:
        node = pack.nodes.adapters.DEFTAdapterLoader
        loaded, _, report = node.execute(model, target.name, 1.0, 1.0, "auto").result
        assert torch.equal(models.patched_weights(loaded)[key], weight)
        assert f"{projector} is assumed" in report
    finally:
        target.unlink()
