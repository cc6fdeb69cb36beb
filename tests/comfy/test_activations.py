"""Adapters on activations give what the same adapters give on the weights of an fp32 base, and leave the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .test_patches import (
    SD3_MODULATION,
    SD3_PROJECTION,
    SD3_QKV,
    UNET_CONVOLUTION,
    UNET_LINEAR,
    Pack,
    every_layer,
)

METHODS = [("deft", {"projector": "qr"}), ("deft", {"projector": "relu"}), ("para", {}), ("lora", {})]
METHOD_IDS = ["deft-qr", "deft-relu", "para", "lora"]


@pytest.fixture(scope="session")
def pack(comfyui_session: Any) -> Pack:
    return Pack(comfyui_session)


def both(pack: Pack, adapter: Any, model: Any, **options: Any) -> tuple[Tensor, Tensor, Any]:
    """Outputs with the adapter on the weights and on the activations, and the second model."""
    on_weights = pack.apply(adapter, model, **options)[0]
    on_activations, _, report = pack.apply(adapter, model, mode="activations", **options)
    assert report.matched and not report.unmatched
    expected = models.network_output(on_weights)
    return expected, models.network_output(on_activations), on_activations


def callable_layers(model: Any) -> list[str]:
    """Layers that are called as modules (a patch embedding's weight may be used otherwise)."""
    return [name for name in every_layer(model) if "pos_embed" not in name]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", ["sd3", "unet", "sdxl"])
def test_the_same_as_on_the_weights(pack: Pack, kind: str, method: str, options: dict) -> None:
    model = models.sd3(depth=2) if kind == "sd3" else models.unet("sd15" if kind == "unet" else "sdxl")
    base_output, base = models.network_output(model), models.weights(model)
    adapter = pack.adapter(model, callable_layers(model), method, **options)
    expected, found, patched = both(pack, adapter, model, strength_model=0.3)
    assert models.relative(expected, base_output) > 1e-2
    assert models.relative(found, expected) < 1e-5
    now = models.weights(patched)
    assert all(torch.equal(now[key], base[key]) for key in base)  # loaded, and yet untouched
    assert torch.equal(models.network_output(model), base_output)  # and the original is the base again


def test_knobs(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION, SD3_QKV])
    for options in ({"removal": 0.5, "injection": 1.5}, {"strength_model": -0.7}, {"removal": 0.0}):
        expected, found, _ = both(pack, adapter, model, **options)
        assert models.relative(found, expected) < 1e-5
    same = pack.apply(adapter, model, strength_model=0, mode="activations")[0]
    assert torch.equal(models.network_output(same), models.network_output(model))


def test_slices_and_swapped_rows(pack: Pack) -> None:
    model = models.sd3()
    shapes = {f"transformer_blocks.0.attn.to_{part}": (64, 64) for part in "qkv"} | {"norm_out.linear": (128, 64)}
    adapter = pack.adapter(model, list(shapes), shapes=shapes)
    expected, found, _ = both(pack, adapter, model)
    assert models.relative(expected, models.network_output(model)) > 1e-2
    assert models.relative(found, expected) < 1e-5
    assert f"{SD3_MODULATION}.weight" in next(iter(pack.apply(adapter, model, mode="activations")[0]
                                                   .injections.values()))[0].items


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
def test_stacking(pack: Pack, stacking: str) -> None:
    model = models.sd3()
    slices = {"transformer_blocks.0.attn.to_q": (64, 64), "transformer_blocks.0.attn.to_v": (64, 64)}
    adapters = [pack.adapter(model, [SD3_PROJECTION, SD3_QKV], seed=10),
                pack.adapter(model, [SD3_QKV], "para", seed=50),
                pack.adapter(model, list(slices), shapes=slices, seed=90)]
    on_weights = on_activations = other_order = model
    for adapter in adapters:
        on_weights = pack.apply(adapter, on_weights, stacking=stacking)[0]
        on_activations = pack.apply(adapter, on_activations, stacking=stacking, mode="activations")[0]
    for adapter in reversed(adapters):
        other_order = pack.apply(adapter, other_order, stacking=stacking, mode="activations")[0]
    expected = models.network_output(on_weights)
    assert len(on_activations.injections) == 1
    assert models.relative(models.network_output(on_activations), expected) < 1e-5
    difference = models.relative(models.network_output(other_order), expected)
    assert difference < 1e-5 if stacking == "from_base" else difference > 1e-3


def test_clones_reuse_and_repeated_loading(pack: Pack) -> None:
    first, second = models.sd3(seed=0), models.sd3(seed=1)
    adapter, other = pack.adapter(first, [SD3_PROJECTION]), pack.adapter(first, [SD3_QKV], seed=60)
    base = models.network_output(first)
    one = pack.apply(adapter, first, mode="activations")[0]
    two = pack.apply(other, one, mode="activations")[0]
    copy = two.clone()
    on_second = pack.apply(adapter, second, mode="activations")[0]
    expected = {
        "one": models.network_output(pack.apply(adapter, first)[0]),
        "two": models.network_output(pack.apply(other, pack.apply(adapter, first)[0])[0]),
        "second": models.network_output(pack.apply(adapter, second)[0]),
    }
    for model, name in ((one, "one"), (two, "two"), (copy, "two"), (on_second, "second"), (one, "one"), (copy, "two"),
                        (two, "two")):
        assert models.relative(models.network_output(model), expected[name]) < 1e-5, name
        assert torch.equal(models.network_output(first), base)
    hooks = [module for module in first.model.modules() if module._forward_hooks]
    assert not hooks  # nothing stays on the modules


def test_with_a_patched_lora_below(pack: Pack) -> None:
    """Weight patches are in W x: the adapter on activations comes after them."""
    model = models.sd3()
    lora, deft = pack.adapter(model, [SD3_PROJECTION], "lora"), pack.adapter(model, [SD3_PROJECTION], seed=40)
    expected = models.network_output(pack.apply(deft, pack.apply(lora, model)[0])[0])
    patched = pack.apply(lora, pack.apply(deft, model, mode="activations")[0])[0]
    assert models.relative(models.network_output(patched), expected) < 1e-5


def test_on_a_partly_loaded_model(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, callable_layers(model))
    expected = models.network_output(pack.apply(adapter, model)[0])
    patched = pack.apply(adapter, model, mode="activations")[0]
    with torch.inference_mode():
        patched.load(models.CPU, lowvram_model_memory=1)
        patched.inject_model()
        found = patched.model.diffusion_model(**models.network_inputs(patched)).clone()
        patched.detach()
    assert models.relative(found, expected) < 1e-5


def test_sampling_and_the_nodes(pack: Pack, comfyui_session: Any) -> None:
    model = models.unet()
    adapter = pack.adapter(model, [UNET_LINEAR, UNET_CONVOLUTION])
    node = comfyui_session.pack_nodes["DEFTApplyAdapter"]
    latents = [models.sample(node.execute(model, adapter, 1.0, 1.0, 1.0, 1.0, "sequential", mode).result[0])
               for mode in ("weights", "activations")]
    assert models.relative(latents[0], models.sample(model)) > 1e-3
    assert models.relative(latents[1], latents[0]) < 1e-4


def test_half_precision_activations(pack: Pack) -> None:
    model = models.sd3(dtype=torch.bfloat16)
    adapter = pack.adapter(model, [SD3_PROJECTION, SD3_QKV])
    inputs = {name: value.bfloat16() for name, value in models.network_inputs(model).items()}
    found = models.network_output(pack.apply(adapter, model, mode="activations")[0], **inputs)
    assert found.dtype == torch.bfloat16
    expected = models.network_output(pack.apply(adapter, model)[0], **inputs)
    assert models.relative(found, expected) < 2e-2


def test_what_cannot_work_on_activations_is_said(pack: Pack) -> None:
    model = models.sd3()
    svdiff = pack.adapters.Adapter({f"{SD3_PROJECTION}.delta": torch.ones(64)})
    with pytest.raises(ValueError, match="svdiff layers such as .*choose weights"):
        pack.apply(svdiff, model, mode="activations")
    loha = pack.adapters.Adapter({f"{SD3_PROJECTION}.hada_{part}": torch.ones(64, 2) if part.endswith("a") else
                                  torch.ones(2, 64) for part in ("w1_a", "w1_b", "w2_a", "w2_b")})
    with pytest.raises(ValueError, match="loha.*choose weights"):
        pack.apply(loha, model, mode="activations")
    with pytest.raises(ValueError, match="Unknown mode 'both'"):
        pack.apply(svdiff, model, mode="both")


def test_a_layer_that_is_never_called_is_logged(pack: Pack, caplog: pytest.LogCaptureFixture) -> None:
    model = models.sd3()
    extra = nn.Linear(8, 8)
    model.model.diffusion_model.unused = extra
    name = "diffusion_model.unused"
    adapter = pack.adapter(model, [SD3_PROJECTION, name])
    models.network_output(pack.apply(adapter, model, mode="activations")[0])
    models.network_output(model)  # takes the hooks off
    assert "never called" in caplog.text and name in caplog.text
