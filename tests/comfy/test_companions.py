"""Factors with companions on a UNet's weights are what LyCORIS' and OneTrainer's own layers compute.

Through this pack's loader, on weights, exported, measured, saved natively, by hooks and by ComfyUI's Load LoRA. All
forms of each method are in tests/unit/test_companions.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_patches import SD3_QKV, UNET_CONVOLUTION, UNET_LINEAR

# Of LyCORIS: its class, the options, what the reports call it.
LYCORIS: dict[str, tuple[str, dict[str, Any], str]] = {
    "tucker-loha": ("loha.LohaModule", {"use_tucker": True}, "loha"),
    "dora-loha": ("loha.LohaModule", {"weight_decompose": True}, "loha"),
    "dora-loha-columns": ("loha.LohaModule", {"weight_decompose": True, "wd_on_out": False}, "loha"),
    "dora-tucker-loha": ("loha.LohaModule", {"weight_decompose": True, "use_tucker": True}, "loha"),
    "tucker-lokr": ("lokr.LokrModule", {"use_tucker": True, "lora_dim": 1}, "lokr"),
    "dora-lokr": ("lokr.LokrModule", {"weight_decompose": True, "lora_dim": 2}, "lokr"),
    "dora-lokr-columns": ("lokr.LokrModule", {"weight_decompose": True, "wd_on_out": False, "factor": 4}, "lokr"),
    "dora-tucker-lokr": ("lokr.LokrModule", {"weight_decompose": True, "use_tucker": True, "lora_dim": 1}, "lokr"),
    "dora-tucker-lora": ("locon.LoConModule", {"weight_decompose": True, "use_tucker": True}, "dora"),
    "dora-tucker-lora-columns": (
        "locon.LoConModule",
        {"weight_decompose": True, "use_tucker": True, "wd_on_out": False},
        "dora",
    ),
    "oft": ("diag_oft.DiagOFTModule", {"lora_dim": 8}, "oft"),
    "oft-rescaled": ("diag_oft.DiagOFTModule", {"lora_dim": 8, "rescaled": True}, "oft"),
    "oft-constrained": ("diag_oft.DiagOFTModule", {"lora_dim": 8, "constraint": 0.01}, "oft"),
    "boft": ("boft.ButterflyOFTModule", {"lora_dim": 8, "rescaled": True, "constraint": 0.01}, "oft"),
}
ONETRAINER = ("onetrainer", "onetrainer-scaled", "onetrainer-shared")


def layer_of(weight: Tensor) -> nn.Module:
    """A layer of torch with a weight."""
    layer = (
        nn.Conv2d(weight.shape[1], len(weight), weight.shape[2:], bias=False)
        if weight.ndim == 4
        else nn.Linear(weight.shape[1], len(weight), bias=False)
    )
    layer.weight.data = weight.clone()
    return layer.requires_grad_(False)


def lycoris(case: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A random module of LyCORIS as it saves it, and the weight of the layer that its forward is of."""
    import importlib

    path, options, _ = LYCORIS[case]
    place, cls = path.split(".")
    module = getattr(importlib.import_module(f"lycoris.modules.{place}"), cls)(
        "layer", layer_of(weight), 1.0, **{"lora_dim": 4, "alpha": 3.0} | options
    )
    for index, (name, parameter) in enumerate(module.named_parameters()):
        value = models.random(*parameter.shape, seed=30 + index)
        parameter.data = parameter.data * (1 + 0.2 * value) if name in ("dora_scale", "rescale") else 0.3 * value
    module.requires_grad_(False)
    return dict(module.state_dict()), weight_in(module, weight)


def weight_in(forward: Any, weight: Tensor) -> Tensor:
    """The weight that a layer multiplies with, of its outputs for inputs that hold a single 1."""
    if weight.ndim == 2:
        return forward(torch.eye(weight.shape[1])).T
    channels, height, width = weight.shape[1:]
    inputs = torch.eye(channels * height * width).reshape(-1, channels, height, width)
    return forward(inputs)[:, :, 0, 0].T.reshape(weight.shape)


def onetrainer(case: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A random OFT as OneTrainer saves it, and the weight in its forward.

    OneTrainer (23df3832), modules/module/LoRAModule.py OFTModule.forward and oft_utils.py OFTRotationModule.
    """
    size, scaled = 8, case == "onetrainer-scaled"
    rank = weight[0].numel() // size
    entries = (0.5 if scaled else 0.1) * models.random(1 if "shared" in case else rank, 28, seed=1)
    upper = torch.zeros(len(entries), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    upper[:, rows, columns] = entries / (2 * math.sqrt(size - 1) if scaled else 1)
    Q = upper - upper.transpose(-2, -1)
    R = torch.eye(size) + 2 * Q + 2 * Q @ Q + 2 * Q @ Q @ Q + Q @ Q @ Q @ Q
    R = R.expand(rank, -1, -1)
    tensors = {"oft_R.weight": entries} | ({"oft_R.scaled_oft": torch.tensor(True)} if scaled else {})
    if weight.ndim == 4:
        return tensors, torch.einsum("ork,rkc->orc", weight.reshape(len(weight), rank, size), R).reshape(weight.shape)
    rotated = torch.einsum("...rk,rkc->...rc", torch.eye(weight.shape[1]).reshape(-1, rank, size), R)
    return tensors, (rotated.reshape(-1, weight.shape[1]) @ weight.T).T


def written(case: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor, str]:
    """A layer of a file, the weight that its writer computes with, and what the reports call it."""
    if case in ONETRAINER:
        return *onetrainer(case, weight), "oft"
    return *lycoris(case, weight), LYCORIS[case][2]


def cases() -> list[tuple[str, str]]:
    return [
        (name, case)
        for case in (*LYCORIS, *ONETRAINER)
        for name in (UNET_LINEAR, UNET_CONVOLUTION)
        if name == UNET_CONVOLUTION or "tucker" not in case
    ]


@pytest.mark.parametrize(("name", "case"), cases(), ids=lambda value: value.rpartition(".")[2])
def test_what_its_writer_computes(pack: Pack, tmp_path: Path, name: str, case: str) -> None:
    """Compared on weights at any strength, exported, measured, and after it was saved natively."""
    import comfy.sd

    model = models.unet()
    key = f"{name}.weight"
    base = models.weights(model)[key]
    tensors, expected, kind = written(case, base)
    assert models.relative(base, expected) > 1e-2
    path = tmp_path / "a.safetensors"
    save_file({f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in tensors.items()}, path)
    adapter = pack.files.read(path)
    native = pack.files.read(pack.native.write(adapter, tmp_path / "native.safetensors"))
    for read, strength in ((adapter, 1.0), (adapter, -0.5), (native, 1.0)):
        patched, _, report = pack.apply(read, model, strength_model=strength)
        assert report.methods == {kind: 1}
        assert not report.unmatched
        weights = models.patched_weights(patched)
        assert models.relative(weights[key], base + strength * (expected - base)) < 1e-5
        assert sum(not torch.equal(weights[other], value) for other, value in models.weights(model).items()) == 1
    (row,) = pack.inspect(adapter, model).rows
    assert row.method == kind
    assert row.change.norm == pytest.approx(float((expected - base).norm()), rel=1e-4)
    assert (row.rank is None) == (kind == "oft")
    for naming in ("comfyui", "kohya", "diffusers"):
        lora, _ = pack.export(adapter, model, naming=naming)
        assert all(part.endswith((".weight", ".alpha")) for part in lora)
        assert not any("oft" in part for part in lora)
        by_core = models.patched_weights(comfy.sd.load_lora_for_models(model, None, dict(lora), 1, 0)[0])[key]
        assert models.relative(by_core, expected) < 1e-4, naming


@pytest.mark.parametrize("case", ["onetrainer", "onetrainer-scaled"])
def test_comfyuis_load_lora_reads_onetrainers_oft(pack: Pack, case: str) -> None:
    """ComfyUI has no class of its own for this OFT; what it has one for is left to it."""
    import comfy.sd

    model = models.unet()
    weights = models.weights(model)
    layers = {name: onetrainer(case, weights[f"{name}.weight"]) for name in (UNET_LINEAR, UNET_CONVOLUTION)}
    tensors = {f"{name}.{suffix}": tensor for name, (group, _) in layers.items() for suffix, tensor in group.items()}
    by_core = models.patched_weights(comfy.sd.load_lora_for_models(model, None, tensors, 1, 0)[0])
    for name, (_, expected) in layers.items():
        assert models.relative(by_core[f"{name}.weight"], expected) < 1e-5
    adapter_of = pack.weight_adapter.DeftWeightAdapter.load
    assert adapter_of(UNET_LINEAR, tensors) is not None
    for other in ("oft-rescaled", "dora-loha", "tucker-lokr", "dora-tucker-lora"):
        group = lycoris(other, weights[f"{UNET_CONVOLUTION}.weight"])[0]
        assert adapter_of("a", {f"a.{suffix}": tensor for suffix, tensor in group.items()}) is None


@pytest.mark.parametrize("case", ["dora-loha-columns", "dora-lokr", "oft-rescaled", "onetrainer-scaled"])
def test_on_slices_of_a_fused_weight(pack: Pack, case: str) -> None:
    """Each slice as the layer that it was trained as."""
    model = models.sd3()
    key = f"{SD3_QKV}.weight"
    base = models.weights(model)[key]
    tensors: dict[str, Tensor] = {}
    expected = base.clone()
    for part, rows in (("to_q", slice(0, 64)), ("to_v", slice(128, 192))):
        group, expected[rows], kind = written(case, base[rows])
        tensors |= {f"transformer_blocks.0.attn.{part}.{suffix}": tensor for suffix, tensor in group.items()}
    for stacking in ("sequential", "from_base"):
        patched, _, report = pack.apply(pack.adapters.Adapter(tensors), model, stacking=stacking)
        assert report.methods == {kind: 2}
        assert models.relative(models.patched_weights(patched)[key], expected) < 1e-5


@pytest.mark.parametrize("case", ["dora-loha", "dora-lokr", "oft-rescaled", "onetrainer"])
def test_what_needs_the_weight_is_refused_on_activations(pack: Pack, case: str) -> None:
    model = models.unet()
    tensors, _, kind = written(case, models.weights(model)[f"{UNET_LINEAR}.weight"])
    adapter = pack.adapters.Adapter({f"{UNET_LINEAR}.{suffix}": tensor for suffix, tensor in tensors.items()})
    with pytest.raises(ValueError, match=kind):
        pack.apply(adapter, model, mode="activations")


def test_tensors_of_onetrainer_are_named(pack: Pack) -> None:
    """The marker belongs to its layer, also where the base has no such layer."""
    model = models.unet()
    tensors, _ = onetrainer("onetrainer-scaled", models.weights(model)[f"{UNET_LINEAR}.weight"])
    adapter = pack.adapters.Adapter(
        {f"{name}.{suffix}": tensor for name in (UNET_LINEAR, "nowhere.1") for suffix, tensor in tensors.items()}
    )
    _, _, report = pack.apply(adapter, model)
    assert report.methods == {"oft": 1}
    assert report.unmatched == ["nowhere.1"]
