"""Applying adapters through ComfyUI's own patching: the weights, the low-VRAM road, stacking, loaders, export."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack

SD3_PROJECTION = "diffusion_model.joint_blocks.0.x_block.attn.proj"
SD3_QKV = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
SD3_MODULATION = "diffusion_model.final_layer.adaLN_modulation.1"
UNET_LINEAR = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
UNET_CONVOLUTION = "diffusion_model.input_blocks.1.0.in_layers.2"
METHODS = [("deft", {"projector": "qr"}), ("deft", {"projector": "relu"}), ("deft", {"projector": "ppt"}), ("para", {})]
METHOD_IDS = ["deft-qr", "deft-relu", "deft-ppt", "para"]


# ------------------------------------------------------------------------------------------------------- one adapter


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", ["sd3", "unet"])
def test_fp32_weights_are_w_plus_delta_and_come_back(pack: Pack, kind: str, method: str, options: dict) -> None:
    model = models.sd3() if kind == "sd3" else models.unet()
    base = models.weights(model)
    adapter = pack.adapter(model, models.every_layer(model), method, **options)
    patched, _, report = pack.apply(adapter, model, strength_model=0.75)
    assert report.methods == {method: len(models.every_layer(model))}
    assert not report.unmatched
    weights = models.patched_weights(patched)
    for name in models.every_layer(model):
        key = f"{name}.weight"
        expected = base[key] + 0.75 * pack.delta(adapter, name, base[key])
        assert models.relative(weights[key], expected) < 1e-6, name
        assert models.relative(weights[key], base[key]) > 1e-3, name
    others = base.keys() - {f"{name}.weight" for name in models.every_layer(model)}
    assert all(torch.equal(weights[key], base[key]) for key in others)
    after = models.weights(model)
    assert all(torch.equal(after[key], base[key]) for key in base)


@pytest.mark.parametrize(("method", "options"), METHODS, ids=METHOD_IDS)
def test_bf16_weights_are_rounded_once(pack: Pack, method: str, options: dict) -> None:
    model = models.sd3(dtype=torch.bfloat16)
    key = f"{SD3_PROJECTION}.weight"
    base = models.weights(model)[key]
    assert base.dtype == torch.bfloat16
    adapter = pack.adapter(model, [SD3_PROJECTION], method, **options)
    weight = models.patched_weights(pack.apply(adapter, model)[0])[key]
    expected = base.float() + pack.delta(adapter, SD3_PROJECTION, base)
    assert weight.dtype == torch.bfloat16
    # ComfyUI rounds stochastically: by less than one unit in the last place, 2^-7 of the value's binade.
    assert torch.all((weight.float() - expected).abs() <= expected.abs() * 2**-7 + 1e-6)
    assert torch.equal(models.weights(model)[key], base)


def test_slices_of_a_fused_weight(pack: Pack) -> None:
    model = models.sd3()
    names = [f"transformer_blocks.0.attn.to_{part}" for part in "qv"]
    adapter = pack.adapter(model, names, shapes=dict.fromkeys(names, (64, 64)))
    key = f"{SD3_QKV}.weight"
    base = models.weights(model)[key]
    weight = models.patched_weights(pack.apply(adapter, model)[0])[key]
    for index, part in enumerate("qkv"):
        rows = slice(64 * index, 64 * (index + 1))
        if part == "k":
            assert torch.equal(weight[rows], base[rows])
        else:
            change = pack.delta(adapter, f"transformer_blocks.0.attn.to_{part}", base[rows])
            assert models.relative(weight[rows], base[rows] + change) < 1e-6


def test_rows_swapped_between_the_two_namings(pack: Pack) -> None:
    """diffusers keeps scale and shift in the other order: the adapter has to see the weight in that order."""
    model = models.sd3()
    name = "norm_out.linear"
    adapter = pack.adapter(model, [name], shapes={name: (128, 64)})
    key = f"{SD3_MODULATION}.weight"
    base = models.weights(model)[key]
    swapped = torch.cat([base[64:], base[:64]])
    expected = swapped + pack.delta(adapter, name, swapped)
    weight = models.patched_weights(pack.apply(adapter, model)[0])[key]
    assert models.relative(torch.cat([weight[64:], weight[:64]]), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weight_is_edited_in_place_and_the_adapter_is_not(pack: Pack, dtype: torch.dtype) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    factors = [value.clone() for value in adapter.values()]
    patched = pack.apply(adapter, model)[0]
    ((_, patch, *_),) = patched.patches[f"{SD3_PROJECTION}.weight"]
    whole = models.random(128, 64, seed=4).to(dtype)
    before = whole.clone()
    part = whole[:64]
    result = patch.calculate_weight(part, "any", 0.5, 1.0, None, lambda rows: rows)
    assert result is part
    assert result.dtype == dtype
    assert not torch.equal(whole[:64], before[:64])
    assert torch.equal(whole[64:], before[64:])
    expected = before[:64].float() + 0.5 * pack.delta(adapter, SD3_PROJECTION, before[:64])
    assert models.relative(part, expected) < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
    assert all(torch.equal(old, new) for old, new in zip(factors, adapter.values(), strict=True))


def test_strengths(pack: Pack) -> None:
    model = models.sd3()
    key = f"{SD3_PROJECTION}.weight"
    base = models.weights(model)[key]
    adapter = pack.adapter(model, [SD3_PROJECTION])
    same, _, report = pack.apply(adapter, model, strength_model=0)
    assert report.matched == 1
    assert torch.equal(models.patched_weights(same)[key], base)
    opposite = models.patched_weights(pack.apply(adapter, model, strength_model=-1.5)[0])[key]
    change = pack.delta(adapter, SD3_PROJECTION, base)
    assert models.relative(opposite, base - 1.5 * change) < 1e-6
    for removal, injection in ((0, 1), (1, 0), (0.5, 2)):
        weight = models.patched_weights(pack.apply(adapter, model, removal=removal, injection=injection)[0])[key]
        change = pack.delta(adapter, SD3_PROJECTION, base, removal=removal, injection=injection)
        assert models.relative(weight, base + change) < 1e-6


def test_one_adapter_on_two_models(pack: Pack) -> None:
    first, second = models.sd3(seed=0), models.sd3(seed=1)
    key = f"{SD3_PROJECTION}.weight"
    adapter = pack.adapter(first, [SD3_PROJECTION])
    for model in (first, second, first):
        base = models.weights(model)[key]
        weight = models.patched_weights(pack.apply(adapter, model)[0])[key]
        assert models.relative(weight, base + pack.delta(adapter, SD3_PROJECTION, base)) < 1e-6


def test_what_does_not_fit_is_said_and_left_out(pack: Pack) -> None:
    model = models.sd3()
    good = pack.adapter(model, [SD3_PROJECTION])
    strange = pack.adapter(model, ["somewhere.else"], shapes={"somewhere.else": (64, 64)})
    large = pack.adapter(model, [SD3_QKV], shapes={SD3_QKV: (192, 96)})
    _, _, report = pack.apply(pack.adapters.Adapter(good | strange | large), model)
    assert report.matched == 1
    assert len(report.unmatched) == 2
    assert "somewhere.else" in report.text()
    assert SD3_QKV in report.text()
    assert "[192, 64]" in report.text()


def test_a_layer_of_a_bigger_relative_is_left_out(pack: Pack) -> None:
    """ComfyUI's maps name layers that only some SD3 models have (attn2 is of SD 3.5 medium)."""
    model = models.sd3()
    name = "transformer_blocks.0.attn2.to_q"
    adapter = pack.adapter(model, [SD3_PROJECTION, name], shapes={name: (64, 64)})
    _, _, report = pack.apply(adapter, model)
    assert report.matched == 1
    assert report.unmatched == [name]


def test_another_architecture_names_both_sides(pack: Pack) -> None:
    adapter = pack.adapter(models.unet(), [UNET_LINEAR])
    with pytest.raises(ValueError, match="fits") as caught:
        pack.apply(adapter, models.sd3(), source="cat.safetensors")
    text = str(caught.value)
    assert "cat.safetensors" in text
    assert UNET_LINEAR in text
    assert "SD3" in text
    assert "x_embedder" in text


def test_a_lora_of_another_size_is_an_error_not_a_log_line(pack: Pack) -> None:
    name = SD3_PROJECTION.removesuffix(".weight")
    lora = {f"{name}.lora_up.weight": torch.ones(128, 4), f"{name}.lora_down.weight": torch.ones(4, 128)}
    pack.apply(lora, models.sd3(depth=2))
    with pytest.raises(ValueError, match="their sizes differ") as caught:
        pack.apply(lora, models.sd3(depth=1))
    assert name in str(caught.value)


def test_sizes_that_differ_are_the_reason(pack: Pack) -> None:
    adapter = pack.adapter(models.sd3(depth=2), [SD3_PROJECTION])
    with pytest.raises(ValueError, match="their sizes differ"):
        pack.apply(adapter, models.sd3())


def test_unknown_stacking(pack: Pack) -> None:
    model = models.sd3()
    with pytest.raises(ValueError, match="Unknown stacking 'both'"):
        pack.apply(pack.adapter(model, [SD3_PROJECTION]), model, stacking="both")


# ---------------------------------------------------------------------------------------------------------- low VRAM


@pytest.mark.parametrize("method", ["deft", "para", "deft-relu"])
def test_low_vram_patches(pack: Pack, method: str) -> None:
    """The road of weights that are patched while they are cast, with adapters rebuilt from their tensors."""
    import comfy.lora
    import comfy.model_patcher

    model = models.sd3()
    name, _, projector = method.partition("-")
    options = {"projector": projector} if projector else {}
    adapter = pack.adapter(model, [SD3_PROJECTION, SD3_QKV], name, **options)
    patched = pack.apply(adapter, model, strength_model=0.5, removal=0.9)[0]
    for layer in (SD3_PROJECTION, SD3_QKV):
        key = f"{layer}.weight"
        base = models.weights(model)[key]
        expected = base + 0.5 * pack.delta(adapter, layer, base, removal=0.9)
        patch = comfy.model_patcher.LowVramPatch(key, patched.patches)
        assert models.relative(patch(base.clone()), expected) < 1e-6
        buffer = torch.zeros(patch.memory_required(), dtype=torch.uint8)
        rebuilt = patch.prepare(buffer, None)[0][1]
        assert type(rebuilt) is pack.weight_adapter.DeftWeightAdapter
        assert rebuilt is not patched.patches[key][0][1]
        assert models.relative(patch(base.clone()), expected) < 1e-6
        buffer.zero_()  # the rebuilt adapter works on the prepared copy, not on ours
        assert torch.equal(patch(base.clone()), base)


def test_a_model_that_does_not_fit_gives_the_same_output(pack: Pack) -> None:
    model = models.sd3()
    patched = pack.apply(pack.adapter(model, models.every_layer(model)), model)[0]
    inputs = models.network_inputs(model)
    with torch.inference_mode():
        patched.patch_model(models.DEVICE)
        full = models.forward(model, **inputs)
        patched.unpatch_model(models.CPU)
        plain = models.forward(model, **inputs)
        patched.patch_model(models.DEVICE, lowvram_model_memory=1)
        assert any(module.weight_function for module in model.model.modules() if hasattr(module, "weight_function"))
        low = models.forward(model, **inputs)
        patched.unpatch_model(models.CPU)
    assert models.relative(plain, full) > 1e-2
    assert models.relative(low, full) < 1e-5


# ---------------------------------------------------------------------------------------------------------- stacking


def test_sequential_and_from_base(pack: Pack) -> None:
    model = models.sd3()
    key = f"{SD3_PROJECTION}.weight"
    base = models.weights(model)[key]
    first, second = (pack.adapter(model, [SD3_PROJECTION], seed=seed) for seed in (10, 50))

    def delta(adapter: Any, weight: Tensor) -> Tensor:
        return pack.delta(adapter, SD3_PROJECTION, weight)

    once = pack.apply(first, model, strength_model=0.5)[0]
    after_first = base + 0.5 * delta(first, base)
    sequential = models.patched_weights(pack.apply(second, once, strength_model=2.0)[0])[key]
    assert models.relative(sequential, after_first + 2 * delta(second, after_first)) < 1e-6
    summed = models.patched_weights(pack.apply(second, once, strength_model=2.0, stacking="from_base")[0])[key]
    assert models.relative(summed, base + 0.5 * delta(first, base) + 2 * delta(second, base)) < 1e-6
    assert models.relative(summed, sequential) > 1e-2
    # The clone of before is as it was.
    assert models.relative(models.patched_weights(once)[key], after_first) < 1e-6


def test_from_base_of_slices(pack: Pack) -> None:
    model = models.sd3()
    names = [f"transformer_blocks.0.attn.to_{part}" for part in "qk"]
    key = f"{SD3_QKV}.weight"
    base = models.weights(model)[key]
    adapters = [pack.adapter(model, names, shapes=dict.fromkeys(names, (64, 64)), seed=seed) for seed in (10, 50)]
    patched = model
    for adapter in adapters:
        patched = pack.apply(adapter, patched, stacking="from_base")[0]
    weight = models.patched_weights(patched)[key]
    for index, name in enumerate(names):
        rows = slice(64 * index, 64 * (index + 1))
        expected = base[rows] + sum(pack.delta(adapter, name, base[rows]) for adapter in adapters)
        assert models.relative(weight[rows], expected) < 1e-6
    assert torch.equal(weight[128:], base[128:])


def test_a_lora_beside_an_adapter(pack: Pack) -> None:
    """Sequential keeps the order of the nodes; from_base puts this pack's adapters first."""
    model = models.sd3()
    key = f"{SD3_PROJECTION}.weight"
    base = models.weights(model)[key]
    lora = pack.adapter(model, [SD3_PROJECTION], "lora")
    deft = pack.adapter(model, [SD3_PROJECTION], "deft")
    added = pack.delta(lora, SD3_PROJECTION, base)
    both = pack.apply(deft, pack.apply(lora, model)[0])[0]
    assert (
        models.relative(
            models.patched_weights(both)[key], base + added + pack.delta(deft, SD3_PROJECTION, base + added)
        )
        < 1e-6
    )
    both = pack.apply(deft, pack.apply(lora, model)[0], stacking="from_base")[0]
    assert (
        models.relative(models.patched_weights(both)[key], base + added + pack.delta(deft, SD3_PROJECTION, base)) < 1e-6
    )
    other = pack.adapter(model, [SD3_QKV], "lora", seed=70)
    _, _, report = pack.apply(pack.adapters.Adapter(deft | other), model)  # one adapter may hold both
    assert report.methods == {"deft": 1, "lora": 1}
    assert not report.unmatched


@pytest.mark.parametrize("projector", ["qr", "relu"])
def test_from_base_is_the_sum_that_peft_computes(pack: Pack, tmp_path: Path, projector: str) -> None:
    import peft

    model = models.sd3()
    name = "transformer_blocks.0.attn.to_out.0"
    key = f"{SD3_PROJECTION}.weight"
    base = models.weights(model)[key]

    attention = nn.Module()
    attention.to_out = nn.ModuleList([nn.Linear(64, 64, bias=False)])
    block = nn.Module()
    block.attn = attention
    network = nn.Module()
    network.transformer_blocks = nn.ModuleList([block])
    attention.to_out[0].weight.data.copy_(base)

    configs = [
        peft.DeftConfig(r=rank, alpha=alpha, decomposition_method=projector, target_modules=[name])
        for rank, alpha in ((4, None), (3, 6))
    ]
    wrapped = peft.get_peft_model(network, configs[0], adapter_name="one")
    wrapped.add_adapter("two", configs[1])
    wrapped.base_model.set_adapter(["one", "two"])
    for index, parameter in enumerate(p for label, p in wrapped.named_parameters() if "deft_" in label):
        parameter.data.copy_(0.2 * models.random(*parameter.shape, seed=40 + index))
    wrapped.save_pretrained(tmp_path)
    wrapped.merge_adapter(["one", "two"])
    merged = wrapped.get_submodule(f"base_model.model.{name}").get_base_layer().weight.detach()

    patched = model
    for folder in ("one", "two"):
        patched, _, report = pack.apply(pack.files.read(tmp_path / folder), patched, stacking="from_base")
        assert report.methods == {"deft": 1}
        assert not report.unmatched
    weight = models.patched_weights(patched)[key]
    assert models.relative(merged, base) > 1e-2
    assert models.relative(weight, merged) < 1e-5


# --------------------------------------------------------------------------------------------- ComfyUI's own loaders


@pytest.fixture
def native_file(pack: Pack, comfyui_session: Any) -> Any:
    """A native file in models/loras, with DEFT, PaRa and LoRA layers; its name and the model that it is for."""
    model = models.sd3()
    adapter = pack.adapter(model, models.every_layer(model), "deft", projector="relu")
    adapter.update(pack.adapter(model, [SD3_PROJECTION], "para"))
    for suffix in ("deft_R", "deft_right", "alpha"):
        adapter.pop(f"{SD3_PROJECTION}.{suffix}", None)
    adapter.update(pack.adapter(model, [SD3_PROJECTION], "para"))
    path = comfyui_session.base / "models" / "loras" / "native_patches.safetensors"
    pack.native.write(adapter, path, pack.native.native_metadata(adapter, name="native_patches", version="test"))
    yield types.SimpleNamespace(name=path.name, path=path, model=model)
    path.unlink()


def test_core_loader_and_ours_give_the_same_latent(pack: Pack, comfyui_session: Any, native_file: Any) -> None:
    import nodes

    model = native_file.model
    ours = comfyui_session.pack_nodes["DEFTAdapterLoader"].execute(model, native_file.name, 0.8, 1.0, "auto")
    patched, clip, report = ours.result
    assert clip is None
    assert f"{len(models.every_layer(model))} layers" in report
    assert "skipped" not in report
    base = models.sample(model)
    latent = models.sample(patched)
    core = nodes.LoraLoaderModelOnly().load_lora_model_only(model, native_file.name, 0.8)[0]
    assert torch.equal(models.sample(core), latent)
    assert models.relative(latent, base) > 1e-2
    assert torch.equal(models.sample(model), base)  # the model that both started from is as it was


def test_exported_lora_in_core_loader_gives_the_same_output(pack: Pack, native_file: Any) -> None:
    import comfy.sd

    model = native_file.model
    adapter = pack.files.read(native_file.path)
    lora = pack.to_lora(adapter, model)
    assert pack.adapters.describe(lora)["method"] == "lora"
    with_lora = comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0)[0]
    expected = models.network_output(pack.apply(adapter, model)[0])
    assert models.relative(models.network_output(model), expected) > 1e-2
    assert models.relative(models.network_output(with_lora), expected) < 1e-5


def test_exported_lora_of_slices_and_convolutions(pack: Pack) -> None:
    import comfy.sd

    slices = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    shapes = dict.fromkeys(slices, (64, 64)) | {"norm_out.linear": (128, 64)}
    for model, names in ((models.sd3(), list(shapes)), (models.unet(), models.every_layer(models.unet()))):
        adapter = pack.adapter(model, names, shapes=shapes)
        with_lora = comfy.sd.load_lora_for_models(model, None, dict(pack.to_lora(adapter, model)), 1.0, 0)[0]
        expected = models.patched_weights(pack.apply(adapter, model)[0])
        weights = models.patched_weights(with_lora)
        for key in with_lora.patches:
            assert models.relative(weights[key], expected[key]) < 1e-5, key


def test_export_refuses_a_base_that_is_not_plain(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    with pytest.raises(ValueError, match=r"already patched at diffusion_model\.joint_blocks"):
        pack.to_lora(adapter, pack.apply(adapter, model)[0])
    with pytest.raises(ValueError, match="not in the base"):
        pack.to_lora(adapter, models.unet())


def test_registration(pack: Pack) -> None:
    import comfy.weight_adapter

    registered = comfy.weight_adapter.adapters
    own = [cls for cls in registered if cls.__name__ == "DeftWeightAdapter"]
    assert own == [pack.weight_adapter.DeftWeightAdapter]
    pack.weight_adapter.register()
    assert comfy.weight_adapter.adapters is registered
    assert registered.count(own[0]) == 1


def test_registration_can_be_switched_off(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.weight_adapter

    kept = [cls for cls in comfy.weight_adapter.adapters if cls.__name__ != "DeftWeightAdapter"]
    monkeypatch.setattr(comfy.weight_adapter, "adapters", list(kept))
    monkeypatch.setitem(os.environ, "DEFT_REGISTER", "0")
    pack.weight_adapter.register()
    assert comfy.weight_adapter.adapters == kept
    monkeypatch.delitem(os.environ, "DEFT_REGISTER")
    pack.weight_adapter.register()
    assert comfy.weight_adapter.adapters == [*kept, pack.weight_adapter.DeftWeightAdapter]


def test_load_claims_nothing_but_its_own_keys(pack: Pack) -> None:
    cls = pack.weight_adapter.DeftWeightAdapter
    keys = {
        "a.lora_up.weight": torch.zeros(2, 1),
        "a.lora_down.weight": torch.zeros(1, 2),
        "a.alpha": torch.ones(()),
        "b.deft_Q": torch.eye(2)[:, :1],
    }
    assert cls.load("a", keys) is None
    loaded = cls.load("b", keys)
    assert loaded is not None
    assert loaded.loaded_keys == {"b.deft_Q"}
    assert loaded.calculate_shape("b.weight") is None
