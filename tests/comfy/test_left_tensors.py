"""Tensors that nobody uses are named, one by one, whatever else of their layer is applied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from . import models
from .pack import Pack
from .test_failed_patches import loha, named, numbers, tucker_lokr
from .test_patches import SD3_PROJECTION, SD3_QKV, UNET_CONVOLUTION, UNET_LINEAR

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"  # UNET_LINEAR


def lora(rows: int = 32, columns: int = 32) -> dict[str, Tensor]:
    return numbers(20, lora_up__weight=(rows, 4), lora_down__weight=(4, columns)) | {"alpha": torch.tensor(2.0)}


def logged_by_comfyui(tensors: Mapping[str, Tensor], model: Any, caplog: pytest.LogCaptureFixture) -> set[str]:
    """What ComfyUI's own loader says of a file: "lora key not loaded"."""
    import comfy.sd

    caplog.clear()
    with caplog.at_level("WARNING"):
        comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
    messages = [record.getMessage() for record in caplog.records]
    return {text.partition("lora key not loaded: ")[2] for text in messages if "lora key not loaded" in text}


EXTRAS = {
    "unknown": (lora(), ("magic",)),
    "rescale": (lora(), ("rescale",)),
    "kasa": (lora(), ("lora_diag",)),
    "ia3": (lora(), ("on_input",)),
    "half-of-another": (lora(), ("hada_w1_b", "lokr_t")),
    "loha": (loha(32, 32), ("magic", "lora_down.weight")),
    "lokr": (numbers(21, lokr_w1=(4, 4), lokr_w2=(8, 8)), ("lora_magnitude_vector.weight",)),
    "difference": (numbers(22, diff=(32, 32)), ("alpha", "lora_down.weight")),
    "several": (lora(), ("a", "c", "weight", "bias")),
}


@pytest.mark.parametrize("name", [UNET_LINEAR, KOHYA])
@pytest.mark.parametrize("case", EXTRAS)
def test_what_of_a_layer_is_not_used(pack: Pack, case: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The reference is ComfyUI's log, where that is more: it counts an alpha as loaded whatever it belongs to."""
    model = models.unet()
    tensors, ends = EXTRAS[case]
    extras = {f"{name}.{end}" for end in ends}
    adapter = named(name, tensors) | {key: models.random(4, 4, seed=3) for key in sorted(extras)}
    if f"{name}.alpha" in extras:
        adapter[f"{name}.alpha"] = torch.tensor(1.0)
    patched, _, report = pack.apply(pack.adapters.Adapter(adapter), model)
    assert set(report.unused) == set(report.unmatched) == extras
    assert logged_by_comfyui(adapter, model, caplog) in (extras, extras - {f"{name}.alpha"})
    assert report.matched == 1
    assert f"{len(extras)} tensors not used, of layers that are applied: " in report.text()
    assert all(key in report.text() for key in extras)
    info = pack.inspect(pack.adapters.Adapter(adapter), model)
    assert set(info.unused) == extras
    assert not info.unmatched
    assert f"not used: {len(extras)} tensors" in info.text()
    exported, written = pack.export(pack.adapters.Adapter(adapter), model, naming="kohya")
    assert f"{len(extras)} tensors of the file are not read" in written.text()
    alone = models.patched_weights(pack.apply(pack.adapters.Adapter(named(name, tensors)), model)[0])
    weights = models.patched_weights(patched)
    assert all(torch.equal(weights[key], alone[key]) for key in weights)


def test_every_tensor_is_one_of_four(pack: Pack) -> None:
    """Used, of a layer without a weight, of one that does not fit, or left of a layer that is used: none is lost."""
    model = models.unet()
    convolution = tucker_lokr(32, 64)
    adapter = {
        **named(UNET_LINEAR, lora()),
        f"{UNET_LINEAR}.magic": torch.ones(1),
        **named(UNET_CONVOLUTION, convolution),
        **named("diffusion_model.nowhere.1", lora()),
        "diffusion_model.nowhere.1.magic": torch.ones(1),
        "to_q.weight": torch.ones(2, 2),
        "weight": torch.ones(1),
        "x.ia3_l": torch.ones(1),
    }
    _, _, report = pack.apply(pack.adapters.Adapter(adapter), model)
    assert report.methods == {"lora": 1}
    assert report.unused == [f"{UNET_LINEAR}.magic"]
    assert len(report.misfits) == 1
    assert report.misfits[0].startswith(f"{UNET_CONVOLUTION} (")
    assert report.unmatched == ["diffusion_model.nowhere.1", "to_q", "weight", "x", *report.unused, *report.misfits]
    assert "4 layers skipped, no such weight: diffusion_model.nowhere.1, to_q, weight, x" in report.text()


@pytest.mark.parametrize("name", [UNET_LINEAR, KOHYA])
@pytest.mark.parametrize("end", ["lora_down.weight", "lora_A.weight", "hada_t1", "weight", "of_2027"])
def test_half_a_layer_is_no_unknown_name(pack: Pack, end: str, name: str) -> None:
    """The model has the weight, and the report says what of the layer there is."""
    model, key = models.unet(), f"{name}.{end}"
    alone = pack.adapters.Adapter({key: models.random(4, 32, seed=3)})
    message = f"{name} (not computed: {end} without what belongs to it, or of an unknown kind)"
    with pytest.raises(ValueError, match=re.escape(message)):
        pack.apply(alone, model)
    with pytest.raises(ValueError, match=re.escape(message)):
        pack.export(alone, model)
    beside = pack.adapters.Adapter(alone | named(UNET_CONVOLUTION, {"diff_b": torch.ones(32)}))
    report = pack.apply(beside, model)[2]
    assert report.misfits == report.unmatched == [message]
    assert "no such weight" not in report.text()
    assert pack.inspect(beside, model).unmatched == [message]


def test_the_core_of_a_lokr_beside_a_lora_is_not_used(pack: Pack) -> None:
    """ComfyUI's LoKr counts it as loaded, and then takes the layer for none of its own."""
    key = f"{UNET_LINEAR}.lokr_t2"
    adapter = pack.adapters.Adapter(named(UNET_LINEAR, lora()) | {key: models.random(2, 2, 3, 3, seed=3)})
    report = pack.apply(adapter, models.unet())[2]
    assert report.methods == {"lora": 1}
    assert report.unused == [key]


@pytest.mark.parametrize("strength", [1.0, -0.5])
@pytest.mark.parametrize("name", [UNET_LINEAR, KOHYA])
def test_a_lora_and_a_difference_of_one_layer_are_both_applied(pack: Pack, name: str, strength: float) -> None:
    """ComfyUI's loader keeps the difference alone, without a word."""
    import comfy.sd

    model = models.unet()
    base = models.weights(model)[f"{UNET_LINEAR}.weight"]
    difference = models.random(32, 32, seed=40)
    adapter = named(name, lora() | {"diff": difference})
    patched, _, report = pack.apply(pack.adapters.Adapter(adapter), model, strength_model=strength)
    assert report.methods == {"diff": 1}
    assert not report.unmatched
    tensors = lora()
    change = difference + 0.5 * tensors["lora_up.weight"] @ tensors["lora_down.weight"]
    patched_weight = models.patched_weights(patched)[f"{UNET_LINEAR}.weight"]
    assert models.relative(patched_weight - base, strength * change) < 1e-5
    exported, _ = pack.export(pack.adapters.Adapter(adapter), model)
    alone = models.patched_weights(comfy.sd.load_lora_for_models(model, None, dict(exported), 1, 0)[0])
    assert models.relative(alone[f"{UNET_LINEAR}.weight"] - base, change) < 1e-4


def test_another_pair_of_one_layer_keeps_the_last(pack: Pack) -> None:
    """ComfyUI leaves these tensors, too; those that are not used are named."""
    model = models.unet()
    both = named(UNET_LINEAR, loha(32, 32) | {"diff": models.random(32, 32, seed=41)})
    patched, _, report = pack.apply(pack.adapters.Adapter(both), model)
    assert report.methods == {"diff": 1}
    assert len(report.unused) == 4
    assert "hada_w1_a" in report.unused[0]
    change = models.patched_weights(patched)[f"{UNET_LINEAR}.weight"] - models.weights(model)[f"{UNET_LINEAR}.weight"]
    assert models.relative(change, both[f"{UNET_LINEAR}.diff"]) < 1e-5


def test_two_changes_of_one_weight_are_refused(pack: Pack) -> None:
    model = models.unet()
    adapter = pack.adapter(model, [UNET_LINEAR])
    adapter[f"{UNET_LINEAR}.diff"] = models.random(32, 32, seed=42)
    with pytest.raises(ValueError, match=f"^Layer {UNET_LINEAR} of the adapter has two kinds of change"):
        pack.apply(adapter, model)


def test_an_alpha_of_several_numbers_is_a_misfit(pack: Pack) -> None:
    """ComfyUI fails on it with a sentence about tensors."""
    model = models.unet()
    adapter = named(UNET_LINEAR, loha(32, 32) | {"alpha": torch.ones(2)}) | named(SD3_QKV, lora())
    with pytest.raises(ValueError, match=r"No layer of the adapter fits \(their sizes differ\)"):
        pack.apply(pack.adapters.Adapter(adapter), model)
    adapter |= named(UNET_CONVOLUTION, {"diff_b": torch.ones(32)})
    _, _, report = pack.apply(pack.adapters.Adapter(adapter), model)
    assert report.misfits == [f"{UNET_LINEAR} (does not fit: its alpha is [2], not one number)"]


def test_names_are_those_of_the_file(pack: Pack) -> None:
    """A reader that gives a tensor another name keeps the file's for the report."""
    model = models.sd3()
    adapter = pack.adapters.Adapter(named(SD3_PROJECTION, lora(64, 64) | {"magic": torch.ones(1)}))
    adapter.spelled = {f"{SD3_PROJECTION}.magic": "transformer_blocks.0.attn.to_out.0.lora_magic.weight"}
    for left in (pack.apply(adapter, model)[2].unused, pack.inspect(adapter, model).unused):
        assert left == ["transformer_blocks.0.attn.to_out.0.lora_magic.weight"]
