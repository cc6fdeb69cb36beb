"""Whole models of PEFT on ComfyUI's weights: biases and saved modules too, against PEFT's merge of diffusers' twin."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import models
from .pack import Pack
from .test_export import small_clip, transformers_clip

UNET_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
UNET_OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
UNET_CONVOLUTION = "down_blocks.0.resnets.0.conv1"
SD3_OUT = "transformer_blocks.0.attn.to_out.0"


TWINS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "sd15": (models.diffusers_sd15, models.comfy_sd15),
    "sd3": (models.diffusers_sd3, models.comfy_sd3),
}


def trained(twin: str, config: Any, folder: Path) -> tuple[Any, Any]:
    """A PEFT model over diffusers' twin, everything trainable moved, saved: ComfyUI's model of the base, of the merge.

    Inputs to tell the two apart are not needed: all tensors of the network are compared.
    """
    import peft

    network, comfy_of = TWINS[twin][0](), TWINS[twin][1]
    base = comfy_of(network)
    wrapped = peft.get_peft_model(copy.deepcopy(network), config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.2 * models.random(*parameter.shape, seed=60 + index))
    wrapped.save_pretrained(folder)
    return base, comfy_of(wrapped.merge_and_unload())


def compare(model: Any, merged: Any, base: dict[str, Tensor], tolerance: float = 1e-5) -> set[str]:
    """All weights of a patched model with those of the merged one; the keys of those that are not the base's."""
    weights, expected = models.patched_weights(model), models.weights(merged)
    changed = {key for key in base if not torch.equal(base[key], expected[key])}
    for key in base:
        if key in changed:
            assert models.relative(weights[key] - base[key], expected[key] - base[key]) < tolerance, key
        else:
            assert torch.equal(weights[key], base[key]), key
    return changed


def config_of(case: str) -> tuple[str, Any]:
    """The twin and the configuration."""
    import peft

    saved = ["conv_norm_out", "time_embedding.linear_1", UNET_CONVOLUTION]
    return {
        "unet-bias-only": ("sd15", peft.LoraConfig(r=2, bias="lora_only", target_modules=[UNET_OUT, UNET_CONVOLUTION])),
        "unet-lora_bias": (
            "sd15",
            peft.LoraConfig(r=2, lora_alpha=3, lora_bias=True, target_modules=[UNET_OUT, UNET_CONVOLUTION]),
        ),
        "unet-saved": ("sd15", peft.LoraConfig(r=2, modules_to_save=saved, target_modules=[UNET_OUT])),
        "unet-dora": ("sd15", peft.LoraConfig(r=2, use_dora=True, modules_to_save=saved, target_modules=[UNET_Q])),
        "unet-loha": ("sd15", peft.LoHaConfig(r=2, modules_to_save=saved, target_modules=[UNET_Q])),
        "unet-lokr": ("sd15", peft.LoKrConfig(r=2, modules_to_save=saved, target_modules=[UNET_Q])),
        "unet-deft": (
            "sd15",
            peft.DeftConfig(r=2, decomposition_method="qr", bias="deft_only", target_modules=[UNET_Q, UNET_OUT]),
        ),
        "sd3-bias-all": ("sd3", peft.LoraConfig(r=2, bias="all", target_modules=["to_q", "norm_out.linear"])),
        "sd3-lora_bias": (
            "sd3",
            peft.LoraConfig(
                r=2,
                lora_alpha=3,
                lora_bias=True,
                use_rslora=True,
                target_modules=["to_q", "to_v", "add_k_proj", "norm_out.linear", "to_out.0"],
            ),
        ),
        "sd3-lora_bias-bias-all": (
            "sd3",
            peft.LoraConfig(r=2, lora_bias=True, bias="all", target_modules=["to_k", "norm_out.linear"]),
        ),
        "sd3-saved": (
            "sd3",
            peft.LoraConfig(
                r=2, modules_to_save=["norm_out.linear", "to_k", "norm_q", "proj"], target_modules=["to_q"]
            ),
        ),
        "sd3-oft": (
            "sd3",
            peft.OFTConfig(
                oft_block_size=8,
                bias="oft_only",
                modules_to_save=["proj_out"],
                target_modules=["to_q", "norm_out.linear"],
            ),
        ),
        "sd3-para": (
            "sd3",
            peft.DeftConfig(r=2, para=True, decomposition_method="qr", bias="all", target_modules=["to_q"]),
        ),
    }[case]


CASES = [
    "unet-bias-only",
    "unet-lora_bias",
    "unet-saved",
    "unet-dora",
    "unet-loha",
    "unet-lokr",
    "unet-deft",
    "sd3-bias-all",
    "sd3-lora_bias",
    "sd3-lora_bias-bias-all",
    "sd3-saved",
    "sd3-oft",
    "sd3-para",
]


@pytest.mark.parametrize("case", CASES)
def test_all_that_peft_saves_is_on_the_weights(pack: Pack, tmp_path: Path, case: str) -> None:
    twin, config = config_of(case)
    model, merged = trained(twin, config, tmp_path)
    base = models.weights(model)
    adapter = pack.files.read(tmp_path)
    patched, _, report = pack.apply(adapter, model)
    assert not report.unmatched, report.unmatched
    changed = compare(patched, merged, base)
    assert len(changed) > 2
    assert any(key.endswith(".bias") for key in changed)
    # Half of it, from a file of this pack's own.
    native = pack.files.read(pack.native.write(adapter, tmp_path / "native" / "a.safetensors"))
    half = models.patched_weights(pack.apply(native, model, strength_model=0.5)[0])
    expected = models.weights(merged)
    for key in changed:
        assert models.relative(half[key] - base[key], 0.5 * (expected[key] - base[key])) < 1e-5, key
    info = pack.inspect(adapter, model)
    assert not info.unmatched
    assert not info.unused
    assert {row.key for row in info.rows} == changed
    assert "replaced" in info.method or "lora_bias" in case
    # As LoRA, by ComfyUI's own loader.
    import comfy.sd

    exported, written = pack.export(adapter, model)
    assert any(key.endswith((".diff", ".diff_b")) for key in exported)
    loaded = comfy.sd.load_lora_for_models(model, None, dict(exported), 1.0, 0.0)[0]
    compare(loaded, merged, base, 1e-3)
    with pytest.raises(ValueError, match="changes [0-9]+ vectors .*which a LoRA under diffusers' names cannot hold"):
        pack.export(adapter, model, naming="diffusers")


def test_kohyas_names_hold_biases_too(pack: Pack, tmp_path: Path) -> None:
    import comfy.sd

    twin, config = config_of("unet-saved")
    model, merged = trained(twin, config, tmp_path)
    exported, _ = pack.export(pack.files.read(tmp_path), model, naming="kohya")
    assert all(key.startswith("lora_unet_") for key in exported)
    loaded = comfy.sd.load_lora_for_models(model, None, dict(exported), 1.0, 0.0)[0]
    compare(loaded, merged, models.weights(model), 1e-3)


def test_diffusers_form_with_the_record_in_the_header(pack: Pack, tmp_path: Path) -> None:
    twin, config = config_of("unet-lora_bias")
    model, merged = trained(twin, config, tmp_path)
    record = json.loads((tmp_path / "adapter_config.json").read_text())
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in record.items()})}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {key.replace("base_model.model", "unet"): value for key, value in tensors.items()},
        tmp_path / "a.safetensors",
        header,
    )
    patched, _, report = pack.apply(pack.files.read(tmp_path / "a.safetensors"), model)
    assert not report.unmatched
    assert len(compare(patched, merged, models.weights(model))) == 4


def test_what_does_not_fit_is_named_as_in_the_file(pack: Pack, tmp_path: Path) -> None:
    """A bias that the base does not have, a saved module of another size, and one that is not there."""
    import peft

    model, _ = trained("sd15", peft.LoraConfig(r=2, target_modules=[UNET_Q]), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    start = "base_model.model."
    tensors |= {
        f"{start}{UNET_Q}.base_layer.bias": torch.ones(32),
        f"{start}conv_norm_out.weight": torch.ones(5),
        f"{start}conv_norm_out.bias": torch.ones(32),
        f"{start}score.weight": torch.ones(2, 2),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    _, _, report = pack.apply(pack.files.read(tmp_path), model)
    assert report.methods == {"lora": 1, "replaced": 1}
    assert sorted(text.partition(" (")[0] for text in report.misfits) == ["conv_norm_out", f"{UNET_Q}.bias"]
    assert "[32]" in min(report.misfits)
    assert "the model has no" in max(report.misfits)
    assert report.unmatched[0] == "score"


def test_oft_of_convolutions_is_a_misfit_that_says_why(pack: Pack, tmp_path: Path) -> None:
    import peft

    config = peft.OFTConfig(oft_block_size=4, target_modules=[UNET_Q, UNET_CONVOLUTION, "conv_shortcut"])
    model, _ = trained("sd15", config, tmp_path)
    patched, _, report = pack.apply(pack.files.read(tmp_path), model)
    assert len(report.misfits) == 1
    assert report.misfits[0].startswith(f"{UNET_CONVOLUTION} (an oft of PEFT")
    assert "kernel [3, 3]" in report.misfits[0]
    assert report.methods["oft"] >= 2


def test_replaced_weights_do_not_work_on_activations(pack: Pack, tmp_path: Path) -> None:
    twin, config = config_of("unet-saved")
    model, _ = trained(twin, config, tmp_path)
    with pytest.raises(ValueError, match="replaced.* choose weights"):
        pack.apply(pack.files.read(tmp_path), model, mode="activations")


def test_biases_and_saved_modules_of_a_text_encoder(pack: Pack, tmp_path: Path) -> None:
    import comfy.model_management
    import peft

    clip = small_clip("sd15")
    base = models.weights(clip.patcher)
    config = peft.LoraConfig(
        r=2, lora_bias=True, bias="all", target_modules=["q_proj", "fc1"], modules_to_save=["final_layer_norm"]
    )
    wrapped = peft.get_peft_model(transformers_clip(clip, "clip_l"), config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.2 * models.random(*parameter.shape, seed=60 + index))
    wrapped.save_pretrained(tmp_path)
    merged = wrapped.merge_and_unload().state_dict()
    merged = {name.removeprefix("text_model."): value for name, value in merged.items()}
    _, patched, report = pack.apply(pack.files.read(tmp_path), None, clip)
    assert not report.unmatched
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patched.patcher])
        weights = models.weights(patched.patcher)
    changed = {key for key in base if not torch.equal(base[key], weights[key])}
    start = "clip_l.transformer.text_model."
    for key in changed:
        assert models.relative(weights[key], merged[key.removeprefix(start)]) < 1e-5, key
    expected = {f"{start}{name}" for name, value in merged.items() if not torch.equal(value, base[f"{start}{name}"])}
    assert changed == expected
    assert len(changed) > 10
