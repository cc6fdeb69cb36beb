"""Adapters on activations give what the same adapters give on the weights of an fp32 base, and leave the weights."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_patches import (
    SD3_MODULATION,
    SD3_PROJECTION,
    SD3_QKV,
    UNET_CONVOLUTION,
    UNET_LINEAR,
)

METHODS = [("deft", {"projector": "qr"}), ("deft", {"projector": "relu"}), ("para", {}), ("lora", {})]
METHOD_IDS = ["deft-qr", "deft-relu", "para", "lora"]


def both(pack: Pack, adapter: Any, model: Any, **options: Any) -> tuple[Tensor, Tensor, Any]:
    """Outputs with the adapter on the weights and on the activations, and the second model."""
    on_weights = pack.apply(adapter, model, **options)[0]
    on_activations, _, report = pack.apply(adapter, model, mode="activations", **options)
    assert report.matched
    assert not report.unmatched
    expected = models.network_output(on_weights)
    return expected, models.network_output(on_activations), on_activations


def callable_layers(model: Any) -> list[str]:
    """Layers that are called as modules (a patch embedding's weight may be used otherwise)."""
    return [name for name in models.every_layer(model) if "pos_embed" not in name]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", ["sd3", "unet", "sdxl"])
def test_the_same_as_on_the_weights(pack: Pack, kind: str, method: str, options: dict) -> None:
    model = models.sd3(depth=2) if kind == "sd3" else models.unet("sd15" if kind == "unet" else "sdxl")
    base_output, base = models.network_output(model), models.weights(model)
    adapter = pack.adapter(model, callable_layers(model), method, **options)
    expected, output, patched = both(pack, adapter, model, strength_model=0.3)
    assert models.relative(expected, base_output) > 1e-2
    assert models.relative(output, expected) < 1e-5
    now = models.weights(patched)
    assert all(torch.equal(now[key], base[key]) for key in base)  # loaded, and yet untouched
    assert torch.equal(models.network_output(model), base_output)  # and the original is the base again


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("lora_B.weight", "lora_A.weight"),
        ("lora.up.weight", "lora.down.weight"),
        ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
    ],
)
def test_plain_lora_of_any_naming(pack: Pack, up: str, down: str) -> None:
    """The LoRA is also weighed by `injection`, which ComfyUI's own patch does not know."""
    model = models.sd3()
    adapter = pack.adapters.Adapter(
        {
            f"{SD3_QKV}.{up}": 0.3 * models.random(192, 4, seed=1),
            f"{SD3_QKV}.alpha": torch.tensor(2.0),
            f"{SD3_QKV}.{down}": models.random(4, 64, seed=2),
        }
    )
    plain = models.network_output(pack.apply(adapter, model)[0])
    assert models.relative(plain, models.network_output(model)) > 1e-2
    expected, output, _ = both(pack, adapter, model)
    assert models.relative(output, expected) < 1e-5
    assert models.relative(plain, expected) < 1e-5
    half = models.network_output(pack.apply(adapter, model, strength_model=0.5)[0])
    for output in both(pack, adapter, model, injection=0.5)[:2]:
        assert models.relative(output, half) < 1e-5


def test_knobs(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION, SD3_QKV])
    for options in ({"removal": 0.5, "injection": 1.5}, {"strength_model": -0.7}, {"removal": 0.0}):
        expected, output, _ = both(pack, adapter, model, **options)
        assert models.relative(output, expected) < 1e-5
    same = pack.apply(adapter, model, strength_model=0, mode="activations")[0]
    assert torch.equal(models.network_output(same), models.network_output(model))


def test_slices_and_swapped_rows(pack: Pack) -> None:
    model = models.sd3()
    shapes = {f"transformer_blocks.0.attn.to_{part}": (64, 64) for part in "qkv"} | {"norm_out.linear": (128, 64)}
    adapter = pack.adapter(model, list(shapes), shapes=shapes)
    expected, output, _ = both(pack, adapter, model)
    assert models.relative(expected, models.network_output(model)) > 1e-2
    assert models.relative(output, expected) < 1e-5
    assert (
        f"{SD3_MODULATION}.weight"
        in next(iter(pack.apply(adapter, model, mode="activations")[0].injections.values()))[0].items
    )


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
def test_stacking(pack: Pack, stacking: str) -> None:
    model = models.sd3()
    slices = {"transformer_blocks.0.attn.to_q": (64, 64), "transformer_blocks.0.attn.to_v": (64, 64)}
    adapters = [
        pack.adapter(model, [SD3_PROJECTION, SD3_QKV], seed=10),
        pack.adapter(model, [SD3_QKV], "para", seed=50),
        pack.adapter(model, list(slices), shapes=slices, seed=90),
    ]
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
    for model, name in (
        (one, "one"),
        (two, "two"),
        (copy, "two"),
        (on_second, "second"),
        (one, "one"),
        (copy, "two"),
        (two, "two"),
    ):
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
        patched.load(models.DEVICE, lowvram_model_memory=1)
        patched.inject_model()
        output = models.forward(patched, **models.network_inputs(patched))
        patched.detach()
    assert models.relative(output, expected) < 1e-5


def test_sampling_and_the_nodes(pack: Pack, comfyui_session: Any) -> None:
    model = models.unet()
    adapter = pack.adapter(model, [UNET_LINEAR, UNET_CONVOLUTION])
    node = comfyui_session.pack_nodes["DEFTApplyAdapter"]
    latents = [
        models.sample(node.execute(model, adapter, 1.0, 1.0, 1.0, 1.0, "sequential", mode).result[0])
        for mode in ("weights", "activations")
    ]
    assert models.relative(latents[0], models.sample(model)) > 1e-3
    assert models.relative(latents[1], latents[0]) < 1e-4


def test_half_precision_activations(pack: Pack) -> None:
    model = models.sd3(dtype=torch.bfloat16)
    adapter = pack.adapter(model, [SD3_PROJECTION, SD3_QKV])
    inputs = {name: value.bfloat16() for name, value in models.network_inputs(model).items()}
    output = models.network_output(pack.apply(adapter, model, mode="activations")[0], **inputs)
    assert output.dtype == torch.bfloat16
    expected = models.network_output(pack.apply(adapter, model)[0], **inputs)
    assert models.relative(output, expected) < 2e-2


def test_what_cannot_work_on_activations_is_said(pack: Pack) -> None:
    model = models.sd3()
    svdiff = pack.adapters.Adapter({f"{SD3_PROJECTION}.delta": torch.ones(64)})
    with pytest.raises(ValueError, match="svdiff layers such as .*choose weights"):
        pack.apply(svdiff, model, mode="activations")
    loha = pack.adapters.Adapter(
        {
            f"{SD3_PROJECTION}.hada_{part}": torch.ones(64, 2) if part.endswith("a") else torch.ones(2, 64)
            for part in ("w1_a", "w1_b", "w2_a", "w2_b")
        }
    )
    with pytest.raises(ValueError, match="loha.*choose weights"):
        pack.apply(loha, model, mode="activations")
    with pytest.raises(ValueError, match="Unknown mode 'both'"):
        pack.apply(svdiff, model, mode="both")


@pytest.mark.parametrize("others", [[SD3_PROJECTION], []], ids=["one of two", "all"])
def test_a_layer_that_is_never_called_is_logged(
    pack: Pack, caplog: pytest.LogCaptureFixture, others: list[str]
) -> None:
    model = models.sd3()
    extra = nn.Linear(8, 8)
    model.model.diffusion_model.unused = extra
    name = "diffusion_model.unused"
    adapter = pack.adapter(model, [*others, name])
    patched = pack.apply(adapter, model, mode="activations")[0]
    patched.inject_model()
    patched.eject_model()
    assert not caplog.text  # not run yet
    models.sample(patched)
    assert "1 adapter layers on activations did nothing" in caplog.text
    assert name in caplog.text  # right after sampling
    models.sample(patched)
    models.network_output(model)  # takes the hooks off
    assert caplog.text.count("did nothing") == 1


# ------------------------------------------------------------------------------------------------ loading and clones


def output_now(model: Any) -> Tensor:
    """The network's output as it is loaded at the moment."""
    with torch.inference_mode():
        return models.forward(model, **models.network_inputs(model))


def hooks_on(model: Any) -> int:
    """Forward hooks on the layers of a model; one more on the network notes that it ran."""
    root = model.model.diffusion_model
    return sum(len(module._forward_hooks) for module in root.modules() if module is not root)


def test_a_clone_that_dies_takes_nothing_off(pack: Pack) -> None:
    """ComfyUI copies the flag is_injected to clones, and a patcher that is deleted ejects what it is said to have."""
    model = models.sd3()
    patched = pack.apply(pack.adapter(model, [SD3_PROJECTION]), model, mode="activations")[0]
    expected = models.network_output(patched)
    for use in (lambda clone: None, lambda clone: clone.model_state_dict(), lambda clone: clone.detach(False)):
        clone = patched.clone()
        use(clone)
        assert torch.equal(output_now(patched), expected)
        del clone
        gc.collect()
        assert torch.equal(output_now(patched), expected)
    kept = patched.clone()
    kept.add_patches({f"{SD3_QKV}.weight": ("diff", (torch.zeros(192, 64),))}, 1.0)
    base = models.network_output(model)  # the original is the base though the clone lives
    assert models.relative(base, expected) > 1e-2
    assert not hooks_on(model)
    assert models.relative(models.network_output(kept), expected) < 1e-6


def test_ejecting_twice_and_loading_twice(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION, SD3_QKV])
    patched = pack.apply(adapter, pack.apply(adapter, model, mode="activations")[0], mode="activations")[0]
    expected = models.network_output(pack.apply(adapter, pack.apply(adapter, model)[0])[0])  # applied twice
    for _ in range(2):
        assert models.relative(models.network_output(patched), expected) < 1e-5
        assert patched.is_injected
        assert hooks_on(model) == 2  # one hook a layer, however many adapters
        patched.inject_model()
        with patched.use_ejected():
            assert not hooks_on(model)
        assert hooks_on(model) == 2
        patched.eject_model()
        patched.eject_model()
        assert not patched.is_injected
        assert not hooks_on(model)


def test_weights_moved_out_while_loaded(pack: Pack) -> None:
    model = models.sd3()
    patched = pack.apply(pack.adapter(model, [SD3_PROJECTION, SD3_QKV]), model, mode="activations")[0]
    expected = models.network_output(patched)
    with torch.inference_mode():
        patched.partially_unload(models.CPU, 1e9)
    assert model.model.model_lowvram
    assert hooks_on(model) == 2
    assert models.relative(output_now(patched), expected) < 1e-6


def test_copies_of_the_factors_are_freed(pack: Pack) -> None:
    model = models.sd3(dtype=torch.bfloat16)
    patched = pack.apply(pack.adapter(model, [SD3_PROJECTION]), model, mode="activations")[0]
    ((injection,),) = patched.injections.values()
    factors = injection.items[f"{SD3_PROJECTION}.weight"][0].layer.factors
    inputs = {name: value.bfloat16() for name, value in models.network_inputs(model).items()}
    models.network_output(patched, **inputs)
    (attached,) = injection._attached.values()
    ((place, moved),) = attached.hooks[f"{SD3_PROJECTION}.weight"]._factors.items()
    assert place[:2] == (models.DEVICE, torch.bfloat16)
    assert moved[0].Q.dtype == torch.bfloat16  # cast once only
    assert factors.Q.dtype == torch.float32
    patched.detach()
    assert not len(injection._attached)
    assert not model.model.diffusion_model._forward_hooks


# --------------------------------------------------------------------------------------------------- kinds of layers


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(12, 16), (3, 2, 5, 12)),
        (nn.Linear(12, 16, bias=False), (12,)),
        (nn.Conv1d(12, 16, 3, 2, 1), (2, 12, 9)),
        (nn.Conv2d(12, 16, (1, 3), padding="same"), (2, 12, 6, 5)),
        (nn.Conv2d(12, 16, 3, bias=False), (12, 6, 5)),
        (nn.Conv3d(12, 16, (1, 2, 2), (1, 2, 2)), (2, 12, 3, 4, 6)),
    ],
    ids=["linear-4d", "linear-vector", "conv1d", "conv2d-same", "conv2d-no-batch", "conv3d"],
)
def test_kinds_of_layers(pack: Pack, layer: nn.Module, shape: tuple[int, ...], method: str, options: dict) -> None:
    """Compared with the layer with the changed weight, for two adapters in a row and three dimensions of input."""
    model = models.sd3()
    model.model.diffusion_model.extra = layer
    name = "diffusion_model.extra"
    x = models.random(*shape, seed=4)
    with torch.inference_mode():
        weight, patched = layer.weight.detach().clone(), model
        before = layer(x).clone()
        for seed in (10, 60):
            adapter = pack.adapter(model, [name], method, seed=seed, **options)
            weight += 0.7 * pack.delta(adapter, name, weight)
            patched = pack.apply(adapter, patched, strength_model=0.7, mode="activations")[0]
        patched.inject_model()
        output = layer(x).clone()
        assert torch.equal(layer(input=x), output)
        patched.eject_model()
        assert torch.equal(layer(x), before)
        layer.weight.copy_(weight)
        assert models.relative(layer(x), before) > 1e-2
        assert models.relative(output, layer(x)) < 1e-5


def test_layers_that_cannot_are_named(pack: Pack) -> None:
    model = models.sd3()
    model.model.diffusion_model.extra = nn.Conv2d(8, 8, 3, groups=2)
    name = "diffusion_model.extra"
    adapter = pack.adapter(model, [name])
    pack.apply(adapter, model)
    with pytest.raises(ValueError, match=f"{name}: A Conv2d with 2 groups .* Choose weights"):
        pack.apply(adapter, model, mode="activations")


def test_a_bias_with_patches_of_its_own(pack: Pack) -> None:
    """The bias is not a part of W x, also where ComfyUI patches it at each use (partly loaded, and dynamic VRAM)."""
    import comfy.model_patcher

    bias_of = pack.models.layers.bias_of
    layer = nn.Linear(4, 6)
    with torch.inference_mode():
        change = models.random(6, seed=1)
        patch = comfy.model_patcher.LowVramPatch("bias", {"bias": [(0.5, ("diff", (change,)), 1.0, None, None)]})
        before = layer.bias.clone()
        layer.bias_function = [patch]
        assert torch.allclose(bias_of(layer, torch.zeros(2, 3, 6), 2), (before + 0.5 * change).view(1, 1, 6))
        layer.bias_function, layer.bias_lowvram_function, layer._v = [], patch, object()
        assert torch.allclose(bias_of(layer, torch.zeros(2, 6), 1), (before + 0.5 * change).view(1, 6))
        assert torch.equal(layer.bias, before)
    assert bias_of(nn.Linear(4, 6, bias=False), torch.zeros(2, 6), 1) is None


def test_a_patched_bias_of_a_partly_loaded_model(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION], "para")
    bias = {f"{SD3_PROJECTION}.bias": ("diff", (models.random(64, seed=8),))}
    outputs = []
    for mode in ("weights", "activations"):
        patched = pack.apply(adapter, model, mode=mode)[0]
        patched.add_patches(bias, 1.0)
        with torch.inference_mode():
            patched.patch_model(models.DEVICE, lowvram_model_memory=1)
            outputs.append(output_now(patched))
            patched.detach()
    assert models.relative(outputs[1], outputs[0]) < 1e-5


# ------------------------------------------------------------------------------------------------- CLIP and training


@pytest.mark.parametrize("method", ["deft", "lora"])
def test_a_clip(pack: Pack, comfyui_session: Any, method: str) -> None:
    clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
    clip.cond_stage_model.float()  # its fp16 weights would be rounded by patching
    names = comfyui_session.module("models.names").clip_names(clip)
    state = clip.patcher.model.state_dict()
    linear = {f"{name}.weight" for name, module in clip.patcher.model.named_modules() if isinstance(module, nn.Linear)}
    shapes = {
        name: tuple(state[key].shape)
        for name, key in names.items()
        if name.startswith("text_encoders.") and key in linear and "text_projection" not in name
    }
    layers = models.deft_layers(shapes, pack.methods.get(method))
    adapter = pack.adapters.from_layers(layers)

    def encoded(clip: Any) -> Tensor:
        with torch.inference_mode():
            return clip.encode_from_tokens(clip.tokenize("a (red:1.3) cat")).clone()

    base = encoded(clip)
    expected = encoded(pack.apply(adapter, None, clip, strength_clip=0.6)[1])
    _, patched, report = pack.apply(adapter, None, clip, strength_clip=0.6, mode="activations")
    assert report.matched == len(shapes) > 10
    assert models.relative(expected, base) > 1e-2
    assert models.relative(encoded(patched), expected) < 1e-5
    assert models.relative(encoded(patched.clone()), expected) < 1e-5
    assert torch.equal(encoded(clip), base)


def test_training_on_a_model_with_activations(pack: Pack, comfyui_session: Any) -> None:
    """A base whose adapter is on activations can be trained on: the factors may be inference tensors."""
    loop = comfyui_session.module("trainers.run.loop")
    with torch.inference_mode():
        model = models.sd3()
        adapter = pack.adapters.Adapter(
            {key: value.clone() for key, value in pack.adapter(model, [SD3_PROJECTION, SD3_QKV]).items()}
        )
        patched = pack.apply(adapter, model, mode="activations")[0]
        settings = comfyui_session.module("trainers.settings.settings").Settings(
            "deft", 2, 2, 1e-2, layers="all linear"
        )
        material = comfyui_session.module("trainers.data.material").Material(
            [models.latents(model)], [models.conditioning()]
        )
        result = loop.train(patched, material, settings, lambda progress: None)
        plain = loop.train(model, material, settings, lambda progress: None)
    assert all(loss == loss for loss in result.losses)
    assert result.losses[0] != plain.losses[0]
