"""DEFT and PaRa in ComfyUI's own Train LoRA: both modes, and what it trains loads back everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_patches import SD3_PROJECTION, SD3_QKV

ALGORITHMS = ["DEFT", "PaRa"]


def loaded(kind: str) -> Any:
    """A small model with the way to load it again, which Train LoRA takes for its copy."""
    make = models.sd3 if kind == "sd3" else models.unet
    model = make()
    model.cached_patcher_init = (lambda disable_dynamic=False: make(), ())
    return model


def train(model: Any, algorithm: str, **options: Any) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """The trained tensors and losses of ComfyUI's node."""
    from comfy_extras.nodes_train import TrainLoraNode

    values: dict[str, Any] = {
        "model": model,
        "latents": models.latents(model),
        "positive": models.conditioning(),
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": 3,
        "learning_rate": 1e-2,
        "rank": 4,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": algorithm,
        "gradient_checkpointing": False,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
    } | options
    with torch.inference_mode():
        result = TrainLoraNode.execute(**{name: [value] for name, value in values.items()}).result
    return result[0], result[1]


def test_the_algorithms_are_offered(pack: Pack, comfyui_session: Any) -> None:
    import comfy.weight_adapter
    from comfy_extras.nodes_train import TrainLoraNode

    (options,) = [one.options for one in TrainLoraNode.define_schema().inputs if one.id == "algorithm"]
    assert set(options) >= {"LoRA", "DEFT", "PaRa"}
    pack.patches.core_training.register_core_training()
    assert list(comfy.weight_adapter.adapter_maps).count("DEFT") == 1


@pytest.mark.parametrize("bypass", [False, True], ids=["weight", "bypass"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["sd3", "unet"])
def test_trained_by_core_and_loaded_everywhere(
    pack: Pack, comfyui_session: Any, kind: str, algorithm: str, bypass: bool
) -> None:
    import nodes
    from comfy_extras.nodes_train import SaveLoRA

    model = loaded(kind)
    trained, losses = train(model, algorithm, bypass_mode=bypass)
    assert len(losses["loss"]) == 3
    assert all(loss > 0 and loss < 1e4 for loss in losses["loss"])
    assert any(key.endswith(".deft_P") for key in trained)
    assert any(key.endswith(".deft_R") for key in trained) == (algorithm == "DEFT")
    base = models.sample(model)
    ours, _, report = pack.apply(trained, model)
    assert report.methods[algorithm.lower()] > 5
    assert not report.unmatched
    expected = models.sample(ours)
    assert models.relative(expected, base) > 1e-4
    with torch.inference_mode():
        SaveLoRA.execute(trained, "loras/core_trained", 3)
    (path,) = (comfyui_session.base / "output" / "loras").glob("core_trained*.safetensors")
    target = comfyui_session.base / "models" / "loras" / "core_trained.safetensors"
    path.rename(target)
    try:
        core = nodes.LoraLoaderModelOnly().load_lora_model_only(model, target.name, 1.0)[0]
        assert models.relative(models.sample(core), expected) < 1e-4
        from_file = pack.apply(pack.files.read(target), model)[0]
        assert models.relative(models.sample(from_file), expected) < 1e-4
    finally:
        target.unlink()


def modules_of(pack: Pack) -> Any:
    return pack.patches.core_training


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("layer", [nn.Linear(20, 24), nn.Conv2d(6, 24, (3, 2), stride=(2, 1), padding=(1, 0))], ids=str)
def test_bypass_is_the_weight_mode(pack: Pack, algorithm: str, layer: nn.Module) -> None:
    """A large bias is not taken for a part of W x."""
    import comfy.weight_adapter

    layer.bias.data.fill_(7.0)
    layer.bias_function = []
    created = comfy.weight_adapter.adapter_maps[algorithm].create_train(layer.weight, rank=4, alpha=1.0)
    with torch.no_grad():
        for index, parameter in enumerate(created.parameters()):
            parameter.add_(0.3 * models.random(*parameter.shape, seed=index))
    x = models.random(2, 5, 20, seed=9) if isinstance(layer, nn.Linear) else models.random(2, 6, 9, 8, seed=9)
    hook = comfy.weight_adapter.BypassForwardHook(layer, created)
    plain = layer(x)
    hook.inject()
    output = layer(x)
    hook.eject()
    with torch.no_grad():
        layer.weight.copy_(created(layer.weight.detach().clone()))
    assert models.relative(layer(x), plain) > 1e-2
    assert models.relative(output, layer(x)) < 1e-5


def test_deft_starts_as_the_base_and_is_capped(pack: Pack) -> None:
    import comfy.weight_adapter

    weight = models.random(6, 40, seed=1)
    created = comfy.weight_adapter.adapter_maps["DEFT"].create_train(weight, rank=16, alpha=1.0)
    assert created.deft_P.shape == (6, 6)
    assert created.deft_R.shape == (6, 40)
    assert models.relative(created(weight), weight) < 1e-6
    low = comfy.weight_adapter.adapter_maps["DEFT"].create_train(models.random(64, 40, seed=2), rank=4, alpha=1.0)
    low = low.to(torch.bfloat16)  # core's default dtype: the start is off by the rounding of R
    assert models.relative(low(models.random(64, 40, seed=2)), models.random(64, 40, seed=2)) < 1e-2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_trained_is_what_is_applied(pack: Pack, algorithm: str) -> None:
    import comfy.weight_adapter

    model = models.sd3()
    key = f"{SD3_PROJECTION}.weight"
    base = models.weights(model)[key]
    created = comfy.weight_adapter.adapter_maps[algorithm].create_train(base, rank=4, alpha=1.0)
    with torch.no_grad():
        for index, parameter in enumerate(created.parameters()):
            parameter.add_(0.1 * models.random(*parameter.shape, seed=index))
    expected = created(base.clone()).detach()
    tensors = {f"{SD3_PROJECTION}.{name}": value.detach() for name, value in created.named_parameters()}
    patched = models.patched_weights(pack.apply(tensors, model)[0])[key]
    assert models.relative(expected, base) > 1e-2
    assert models.relative(patched, expected) < 1e-5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_going_on_starts_where_it_stopped(pack: Pack, comfyui_session: Any, algorithm: str) -> None:
    from safetensors.torch import save_file

    model = loaded("sd3")
    trained, _ = train(model, algorithm)
    name = "core_trained_3_steps_x.safetensors"
    target = comfyui_session.base / "models" / "loras" / name
    save_file({key: value.contiguous() for key, value in trained.items()}, target)
    try:
        again, _ = train(model, algorithm, existing_lora=name, learning_rate=1e-7, steps=1)
    finally:
        target.unlink()
    before = models.patched_weights(pack.apply(trained, model)[0])
    after = models.patched_weights(pack.apply(again, model)[0])
    for key in (f"{SD3_PROJECTION}.weight", f"{SD3_QKV}.weight"):
        assert models.relative(after[key], before[key]) < 1e-4


def test_core_algorithms_still_train(pack: Pack) -> None:
    trained, losses = train(loaded("sd3"), "LoRA")
    assert any(key.endswith(".lora_up.weight") for key in trained)
    assert len(losses["loss"]) == 3


def test_what_cannot_go_on_is_said(pack: Pack) -> None:
    cls = pack.weight_adapter.DeftWeightAdapter
    factors = {"a.deft_Q": torch.ones(4, 2), "a.deft_right": torch.zeros(4, 2), "a.deft_R": torch.ones(2, 3)}
    relu = cls.load("a", factors)
    with pytest.raises(ValueError, match="projector is not qr"):
        relu.to_train()
    svdiff = cls.load("a", {"a.delta": torch.ones(3)})
    with pytest.raises(ValueError, match="cannot continue from svdiff"):
        svdiff.to_train()
