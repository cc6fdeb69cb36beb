"""Patches that ComfyUI's own classes cannot apply, and only log: left out by name, refused, or computed after all.

What this pack computes itself instead is in test_companions.py.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from . import models
from .pack import Pack
from .test_patches import SD3_PROJECTION, SD3_QKV, UNET_CONVOLUTION, UNET_LINEAR

CONVOLUTION = (32, 32, 3, 3)  # UNET_CONVOLUTION's weight
LINEAR = (32, 32)  # UNET_LINEAR's weight
BESIDE = UNET_LINEAR.replace("to_q", "to_k")


def numbers(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors by the ends of their names; "__" is a dot."""
    return {
        name.replace("__", "."): 0.3 * models.random(*shape, seed=100 * seed + index)
        for index, (name, shape) in enumerate(shapes.items())
    }


def named(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{end}": tensor for end, tensor in tensors.items()}


def loha(rows: int, columns: int, other: int | None = None) -> dict[str, Tensor]:
    return numbers(1, hada_w1_a=(rows, 4), hada_w1_b=(4, columns), hada_w2_a=(rows, 4), hada_w2_b=(4, other or columns))


def tucker_loha(rows: int, columns: int, kernel: tuple[int, ...] = (3, 3)) -> dict[str, Tensor]:
    return numbers(
        2,
        hada_t1=(4, 4, *kernel),
        hada_w1_a=(4, rows),
        hada_w1_b=(4, columns),
        hada_t2=(4, 4, *kernel),
        hada_w2_a=(4, rows),
        hada_w2_b=(4, columns),
    )


def tucker_lora(rows: int, columns: int, kernel: tuple[int, ...] = (3, 3)) -> dict[str, Tensor]:
    ones = (1,) * len(kernel)
    return numbers(
        3, lora_up__weight=(rows, 4, *ones), lora_mid__weight=(4, 4, *kernel), lora_down__weight=(4, columns, *ones)
    ) | {"alpha": torch.tensor(2.0)}


def tucker_lokr(rows: int, columns: int, kernel: tuple[int, ...] = (3, 3), both: bool = False) -> dict[str, Tensor]:
    first = {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 8)} if both else {"lokr_w1": (4, 8)}
    return numbers(4, **first, lokr_t2=(2, 2, *kernel), lokr_w2_a=(2, rows // 4), lokr_w2_b=(2, columns // 8)) | {
        "alpha": torch.tensor(3.0)
    }


def glora(rows: int, columns: int) -> dict[str, Tensor]:
    return numbers(5, a1__weight=(columns, 4), a2__weight=(4, columns), b1__weight=(rows, 4), b2__weight=(4, columns))


def old_glora(rows: int, columns: int) -> dict[str, Tensor]:
    return numbers(6, a1__weight=(4, columns), a2__weight=(columns, 4), b1__weight=(4, columns), b2__weight=(rows, 4))


def dora(rows: int, columns: int, scale: tuple[int, ...]) -> dict[str, Tensor]:
    return loha(rows, columns) | {"dora_scale": models.random(*scale, seed=7).abs()}


def sized(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return numbers(8, **shapes)


# What makes a layer none of this pack's classes': a tensor that belongs to another kind of adapter.
BESIDE_IT = tucker_lora(32, 32) | sized(lora_mid__weight=(4, 4))
# What ComfyUI logs and leaves, or spreads over a weight that it was not made for: layer, tensors, what is said of it.
MISFITS: dict[str, tuple[str, dict[str, Tensor], str]] = {
    "loha": (UNET_LINEAR, loha(64, 64), "made for [64, 64], this weight is [32, 32]"),
    "loha-as-many-values": (UNET_LINEAR, loha(64, 16), "made for [64, 16], this weight is [32, 32]"),
    "loha-spread": (UNET_LINEAR, loha(32, 32, 1), "its two halves are for [32, 32] and [32, 1]"),
    "loha-ranks": (UNET_LINEAR, loha(32, 32) | sized(hada_w1_b=(3, 32)), "its factors are [32, 4] and [3, 32]"),
    "tucker-loha": (UNET_CONVOLUTION, tucker_loha(32, 16), "loha of another size, this weight is [32, 32, 3, 3]"),
    "tucker-loha-kernel": (UNET_CONVOLUTION, tucker_loha(32, 288, (1, 1)), "loha of another size"),
    "tucker-loha-1d": (UNET_CONVOLUTION, tucker_loha(32, 96, (3,)), "loha of another size"),
    "lokr": (UNET_LINEAR, sized(lokr_w1=(8, 8), lokr_w2=(16, 16)), "made for [128, 128], this weight is [32, 32]"),
    "lokr-as-many-values": (UNET_LINEAR, sized(lokr_w1=(8, 2), lokr_w2=(8, 8)), "made for [64, 16]"),
    "lokr-half": (UNET_LINEAR, sized(lokr_w1=(8, 8)), "lokr_w2 is missing"),
    "lokr-4d": (UNET_CONVOLUTION, sized(lokr_w1=(4, 4, 1, 1), lokr_w2=(8, 4, 3, 3)), "made for [32, 16, 3, 3]"),
    "lokr-kernel": (UNET_CONVOLUTION, sized(lokr_w1=(4, 4, 3, 3), lokr_w2=(8, 8, 3, 3)), "its factors are [4, 4, 3"),
    "tucker-lokr": (UNET_CONVOLUTION, tucker_lokr(32, 64), "lokr of another size, this weight is [32, 32, 3, 3]"),
    "oft": (UNET_LINEAR, sized(oft_blocks=(8, 8, 8)), "oft of another size, this weight is [32, 32]"),
    "oft-dora": (UNET_LINEAR, sized(oft_blocks=(4, 8, 8), dora_scale=(32, 1)), "oft with tensors that no program"),
    "oft-shared": (UNET_LINEAR, sized(oft_R__weight=(3, 28)), "oft of another size, this weight is [32, 32]"),
    "boft": (UNET_LINEAR, sized(oft_blocks=(2, 8, 8, 8)), "oft of another size, this weight is [32, 32]"),
    "boft-steps": (UNET_LINEAR, sized(oft_blocks=(5, 4, 8, 8)), "oft of another size, this weight is [32, 32]"),
    "boft-rescale": (UNET_LINEAR, sized(oft_blocks=(2, 4, 8, 8), rescale=(16, 1)), "oft of another size"),
    "glora": (UNET_LINEAR, glora(64, 32), "made for [64, 32], this weight is [32, 32]"),
    "glora-columns": (UNET_LINEAR, glora(32, 32) | sized(a1__weight=(16, 4), a2__weight=(4, 16)), "16 columns"),
    "old-glora": (UNET_LINEAR, old_glora(32, 64), "this weight is [32, 32]"),
    "diff": (UNET_LINEAR, sized(diff=(64, 32)), "made for [64, 32], this weight is [32, 32]"),
    "diff-spread": (UNET_LINEAR, sized(diff=(1, 32)), "made for [1, 32], this weight is [32, 32]"),
    "set": (UNET_LINEAR, sized(set_weight=(1, 32)), "made for [1, 32], this weight is [32, 32]"),
    "diff_b": (UNET_CONVOLUTION, sized(diff_b=(16,)), "made for [16], this weight is [32]"),
    "diff_b-no-bias": (UNET_LINEAR, sized(diff_b=(32,)), f"the model has no {UNET_LINEAR}.bias"),
    "lora-ranks": (UNET_LINEAR, sized(lora_B__weight=(32, 4), lora_A__weight=(3, 32)), "its factors are"),
    "lora-vector": (UNET_LINEAR, sized(lora_B__weight=(32,), lora_A__weight=(1, 32)), "its tensors are [32] and"),
    "lora-reshape": (
        UNET_LINEAR,
        sized(lora_B__weight=(32, 4), lora_A__weight=(4, 32), reshape_weight=(2, 2)),
        "its reshape_weight is no list of sizes",
    ),
    "lora-reshape-number": (
        UNET_LINEAR,
        sized(lora_B__weight=(32, 4), lora_A__weight=(4, 32), reshape_weight=()),
        "its reshape_weight is no list of sizes",
    ),
    "tucker-lora": (UNET_CONVOLUTION, tucker_lora(32, 16), "made for [32, 16, 3, 3], this weight is [32, 32, 3, 3]"),
    "tucker-lora-ranks": (UNET_CONVOLUTION, tucker_lora(32, 32) | sized(lora_mid__weight=(4, 2, 3, 3)), "its factors"),
    "dora": (UNET_LINEAR, dora(32, 32, (64, 1)), "loha of another size, this weight is [32, 32]"),
    "tucker-loha-beside": (
        UNET_CONVOLUTION,
        tucker_loha(32, 32, (3, 3, 1)) | BESIDE_IT,
        "not computed: loha with tensors",
    ),
    "tucker-lokr-beside": (UNET_CONVOLUTION, tucker_lokr(32, 32) | BESIDE_IT, "not computed: lokr with tensors"),
    "loha-incomplete": (UNET_LINEAR, {k: v for k, v in loha(32, 32).items() if k != "hada_w2_b"}, "hada_w2_b"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_left_out_by_name(pack: Pack, case: str, caplog: pytest.LogCaptureFixture) -> None:
    name, tensors, message = MISFITS[case]
    model = models.unet()
    base = models.weights(model)
    assert {name: tuple(base[f"{name}.weight"].shape) for name in (UNET_LINEAR, UNET_CONVOLUTION)} == {
        UNET_LINEAR: LINEAR,
        UNET_CONVOLUTION: CONVOLUTION,
    }
    alone = pack.adapters.Adapter(named(name, tensors))
    with pytest.raises(ValueError, match="their sizes differ") as error:
        pack.apply(alone, model)
    assert name in str(error.value)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="1 layers of .* do not fit the base") as error:
        pack.export(alone, model)
    assert name in str(error.value)
    assert message in str(error.value)
    beside = pack.adapters.Adapter(alone | named(BESIDE, loha(*LINEAR)))
    caplog.clear()
    patched, _, report = pack.apply(beside, model)
    weights = models.patched_weights(patched)
    assert {key for key in base if not torch.equal(base[key], weights[key])} == {f"{BESIDE}.weight"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and record.name == "root"]
    (text,) = report.unmatched
    assert report.methods == {"loha": 1}
    assert text.startswith(name)
    assert message in text
    assert f"1 layers skipped, they do not fit their weight: {text}" in report.text()
    info = pack.inspect(beside, model)
    assert info.unmatched == [text]
    assert info.matched == 1


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            tucker_lokr(32, 32) | sized(lokr_w2_a=(3, 8)),
            "the factors have the shapes [2, 2, 3, 3] and [3, 8] and [2, 4]",
        ),
        (dora(32, 32, (32, 2)), "dora_scale has shape [32, 2]"),
        (sized(oft_blocks=(4, 8, 7)), "oft_blocks has shape [4, 8, 7]"),
    ],
)
def test_a_damaged_layer_is_refused_by_name(pack: Pack, tensors: dict[str, Tensor], message: str) -> None:
    adapter = pack.adapters.Adapter(named(UNET_CONVOLUTION, tensors) | named(BESIDE, loha(*LINEAR)))
    for refuse in (pack.apply, pack.export, pack.inspect):
        with pytest.raises(ValueError, match="does not fit together") as error:
            refuse(adapter, models.unet())
        assert UNET_CONVOLUTION in str(error.value)
        assert message in str(error.value)


# ------------------------------------------------------------------------------------------ what ComfyUI can apply


FITTING: dict[str, tuple[str, dict[str, Tensor]]] = {
    "loha": (UNET_LINEAR, loha(32, 32) | {"alpha": torch.tensor(2.0)}),
    "loha-flat": (UNET_CONVOLUTION, loha(32, 288)),
    "lokr-flat": (UNET_CONVOLUTION, sized(lokr_w1=(4, 8), lokr_w2_a=(8, 2), lokr_w2_b=(2, 36))),
    "lokr-conv": (UNET_CONVOLUTION, sized(lokr_w1_a=(4, 2), lokr_w1_b=(2, 8), lokr_w2=(8, 4, 3, 3))),
    "glora": (UNET_LINEAR, glora(32, 32) | {"alpha": torch.tensor(2.0)}),
    "old-glora": (UNET_LINEAR, old_glora(32, 32)),
    "glora-conv": (UNET_CONVOLUTION, glora(32, 32) | sized(b2__weight=(4, 32, 3, 3))),
    "diff": (UNET_LINEAR, sized(diff=(32, 32))),
    "diff_b": (UNET_CONVOLUTION, sized(diff_b=(32,))),
    "tucker-lora": (UNET_CONVOLUTION, tucker_lora(32, 32)),
}


@pytest.mark.parametrize("case", FITTING)
def test_what_fits_is_applied_as_by_comfyuis_own_loader(pack: Pack, case: str) -> None:
    import comfy.sd

    name, tensors = FITTING[case]
    model = models.unet()
    key = f"{name}.{'bias' if case == 'diff_b' else 'weight'}"
    base = models.weights(model)[key]
    adapter = pack.adapters.Adapter(named(name, tensors))
    expected = models.patched_weights(comfy.sd.load_lora_for_models(model, None, dict(adapter), 0.75, 0)[0])[key]
    patched, _, report = pack.apply(adapter, model, strength_model=0.75)
    assert report.matched == 1
    assert not report.unmatched
    assert models.relative(base, expected) > 1e-3
    assert torch.equal(models.patched_weights(patched)[key], expected)
    info = pack.inspect(adapter, model)
    assert info.matched == 1
    assert info.rows[0].change.norm > 0


# -------------------------------------------------------------------------------------------- what is computed here


def lycoris_lokr(tensors: dict[str, Tensor]) -> Tensor:
    """LyCORIS' LokrModule.get_weight with its make_kron (functional/lokr.py, _kron_weight), in double precision.

    Its scale is alpha / rank, and 1 where both factors are whole.
    """
    t = {name: value.double() for name, value in tensors.items()}
    w1, w2, ranks = t.get("lokr_w1"), t.get("lokr_w2"), []
    if w1 is None:
        w1 = t["lokr_w1_a"] @ t["lokr_w1_b"]
        ranks.append(len(t["lokr_w1_b"]))
    if w2 is None:
        r, o, *k = t["lokr_w2_b"].shape
        w2 = (t["lokr_w2_a"] @ t["lokr_w2_b"].view(r, -1)).view(-1, o, *k)
        ranks.append(r)
    scale = float(t["alpha"]) / ranks[0] if ranks else 1.0
    for _ in range(w2.dim() - w1.dim()):
        w1 = w1.unsqueeze(-1)
    return torch.kron(w1, w2.contiguous()) * scale


def lycoris_tucker_lora(tensors: dict[str, Tensor]) -> Tensor:
    """LyCORIS' tucker_weight_from_conv, times alpha / rank."""
    up, middle, down = (tensors[f"lora_{part}.weight"].double() for part in ("up", "mid", "down"))
    up, down = up.reshape(up.size(0), up.size(1)), down.reshape(down.size(0), down.size(1))
    return torch.einsum("m n ..., i m, n j -> i j ...", middle, up, down) * float(tensors["alpha"]) / len(down)


def whole_lokr(rows: int, columns: int, kernel: tuple[int, ...], both: bool) -> dict[str, Tensor]:
    first = {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 8)} if both else {"lokr_w1": (4, 8)}
    return numbers(9, **first, lokr_w2=(rows // 4, columns // 8, *kernel)) | {"alpha": torch.tensor(3.0)}


@pytest.mark.parametrize("kernel", [(3,), (1, 2, 3), (2, 3, 3)])
@pytest.mark.parametrize("kind", ["lokr", "lokr-both", "lora"])
def test_other_kernels(pack: Pack, kind: str, kernel: tuple[int, ...]) -> None:
    """Convolutions of one and of three dimensions, on a bare weight: through ComfyUI's loader and its computation."""
    import comfy.lora

    tensors = tucker_lora(16, 24, kernel) if kind == "lora" else whole_lokr(16, 24, kernel, "both" in kind)
    expected = lycoris_tucker_lora(tensors) if kind == "lora" else lycoris_lokr(tensors)
    (patch,) = comfy.lora.load_lora(named("layer", tensors), {"layer": "layer.weight"}, log_missing=False).values()
    weight = models.random(16, 24, *kernel, seed=3)
    patch = pack.foreign.repaired(patch)
    assert pack.foreign.misfit(patch, tuple(weight.shape)) is None
    assert pack.foreign.misfit(patch, (24, 16, *kernel)) is not None
    patched = comfy.lora.calculate_weight([(0.5, patch, 1.0, None, None)], weight.clone(), "layer.weight")
    assert models.relative(patched - weight, 0.5 * expected) < 1e-5
    assert models.relative(pack.foreign.change_of(patch, weight, "layer.weight"), expected) < 1e-5


def onetrainer_loha(tensors: dict[str, Tensor]) -> Tensor:
    """OneTrainer's LoHaModule.delta_forward with its make_weight (modules/module/LoRAModule.py)."""
    parts = (tensors[f"hada_w{part}"].double() for part in ("1_a", "1_b", "2_a", "2_b"))
    B1, A1, B2, A2 = parts
    W1, W2 = (B.view(B.size(0), -1) @ A.view(A.size(0), -1) for B, A in ((B1, A1), (B2, A2)))
    return (W1 * W2).view(CONVOLUTION) * (float(tensors["alpha"]) / len(A1))


@pytest.mark.parametrize(
    "tensors",
    [
        {
            "hada_w1_a": (32, 4, 1, 1),
            "hada_w1_b": (4, 32, 3, 3),
            "hada_w2_a": (32, 4, 1, 1),
            "hada_w2_b": (4, 32, 3, 3),
        },
        {"lokr_w1": (4, 8), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 4, 3, 3)},
        {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 8), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 4, 3, 3)},
        {"lokr_w1": (4, 8, 1, 1), "lokr_w2": (8, 4, 3, 3)},
    ],
)
def test_factors_of_four_dimensions(pack: Pack, tensors: dict[str, tuple[int, ...]]) -> None:
    """What OneTrainer writes, and LyCORIS' functional.lokr.weight_gen makes, for a convolution.

    ComfyUI itself takes matrices.
    """
    import comfy.sd

    model = models.unet()
    key = f"{UNET_CONVOLUTION}.weight"
    group = sized(**tensors) | {"alpha": torch.tensor(3.0)}
    kind, reference = ("loha", onetrainer_loha) if "hada_w1_a" in group else ("lokr", lycoris_lokr)
    base, change = models.weights(model)[key], reference(group)
    adapter = pack.adapters.Adapter(named(UNET_CONVOLUTION, group))
    patched, _, report = pack.apply(adapter, model, strength_model=0.75)
    assert report.methods == {kind: 1}
    assert not report.unmatched
    assert models.relative(models.patched_weights(patched)[key] - base, 0.75 * change) < 1e-5
    for naming in ("comfyui", "kohya", "diffusers"):
        # Under ComfyUI's names, too, a LoRA: the tensors as they are would do nothing there.
        lora, _ = pack.export(adapter, model, naming=naming)
        by_core = models.patched_weights(comfy.sd.load_lora_for_models(model, None, dict(lora), 1, 0)[0])[key]
        assert models.relative(by_core - base, change) < 1e-4, naming


def test_the_bias_of_slices(pack: Pack) -> None:
    """ComfyUI's loader loses the key of a slice's bias."""
    model = models.sd3()
    names = {part: f"transformer_blocks.0.attn.to_{part}" for part in "qv"}
    tensors = {f"{name}.diff_b": models.random(64, seed=index) for index, name in enumerate(names.values())}
    tensors[f"{names['q']}.diff"] = models.random(64, 64, seed=5)
    base = models.weights(model)
    patched, _, report = pack.apply(pack.adapters.Adapter(tensors), model)
    assert report.methods == {"diff": 3}
    assert not report.unmatched
    weights = models.patched_weights(patched)
    bias = torch.cat([tensors[f"{names['q']}.diff_b"], torch.zeros(64), tensors[f"{names['v']}.diff_b"]])
    assert models.relative(weights[f"{SD3_QKV}.bias"], base[f"{SD3_QKV}.bias"] + bias) < 1e-6
    changed = (weights[f"{SD3_QKV}.weight"] - base[f"{SD3_QKV}.weight"])[:64]
    assert models.relative(changed, tensors[f"{names['q']}.diff"]) < 1e-6
    _, _, report = pack.apply(pack.adapters.Adapter(tensors | {f"{names['v']}.diff_b": torch.ones(63)}), model)
    assert report.methods == {"diff": 2}
    assert "made for [63], this weight is [64]" in report.text()


# ------------------------------------------------------------------------------------------- what fails all the same


def both_refuse(pack: Pack, adapter: Any, model: Any) -> list[str]:
    """The error messages of the export and of Adapter Info."""
    messages = []
    for refuse in (lambda: pack.export(adapter, model, naming="kohya"), lambda: pack.inspect(adapter, model)):
        with pytest.raises(ValueError, match=f"{SD3_PROJECTION}.weight") as error:
            refuse()
        messages.append(str(error.value))
    return messages


@pytest.mark.parametrize("kind", ["loha", "glora", "diff"])
def test_an_error_that_comfyui_logs_is_raised(pack: Pack, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.lora

    model = models.sd3()
    tensors = {"loha": loha(64, 64), "glora": glora(64, 64), "diff": sized(diff=(64, 64))}[kind]
    adapter = pack.adapters.Adapter(named(SD3_PROJECTION, tensors))
    pack.export(adapter, model, naming="kohya")
    original = comfy.lora.calculate_weight

    def logging_only(patches: list, weight: Tensor, key: str, *args: Any, **kwargs: Any) -> Tensor:
        logging.error(f"ERROR {kind} {key} no such kernel")
        return original([], weight, key, *args, **kwargs)

    monkeypatch.setattr(comfy.lora, "calculate_weight", logging_only)
    assert all("no such kernel" in message for message in both_refuse(pack, adapter, model))
    # And where not even that is said.
    monkeypatch.setattr(comfy.lora, "calculate_weight", lambda patches, weight, *args, **kwargs: weight)
    assert all("changes nothing" in message for message in both_refuse(pack, adapter, model))


def test_no_change_where_none_is_meant(pack: Pack) -> None:
    """Factors that were never trained are zero; a change below the weight's rounding is there all the same."""
    model = models.sd3()
    key = f"{SD3_PROJECTION}.weight"
    for tensors in (
        loha(64, 64) | {"hada_w1_b": torch.zeros(4, 64)},
        sized(oft_blocks=(8, 8, 8)) | {"oft_blocks": torch.ones(8, 8, 8)},
        loha(64, 64) | {"alpha": torch.tensor(0.0)},
    ):
        adapter = pack.adapters.Adapter(named(SD3_PROJECTION, tensors))
        (row,) = pack.inspect(adapter, model).rows
        assert row.key == key
        assert row.change.norm == 0
        assert pack.export(adapter, model, naming="kohya")[1].methods.total() == 1
    small = {name: 1e-7 * value for name, value in sized(lokr_w1=(8, 8), lokr_w2=(8, 8)).items()}
    expected = torch.kron(small["lokr_w1"].double(), small["lokr_w2"].double())
    base = models.weights(model)[key]
    assert torch.equal(base, base + expected.float())
    lora, _ = pack.export(pack.adapters.Adapter(named(SD3_PROJECTION, small)), model, naming="kohya")
    up, down = (next(v for n, v in lora.items() if n.endswith(f"lora_{part}.weight")) for part in ("up", "down"))
    assert models.relative(up @ down, expected) < 1e-5


def test_what_another_thread_logs_is_no_failure(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.lora

    root = logging.getLogger()
    handlers, original = list(root.handlers), comfy.lora.calculate_weight

    def beside(*args: Any, **kwargs: Any) -> Tensor:
        other = threading.Thread(target=logging.error, args=("ERROR of another prompt",))
        other.start()
        other.join()
        return original(*args, **kwargs)

    monkeypatch.setattr(comfy.lora, "calculate_weight", beside)
    adapter = pack.adapters.Adapter(named(SD3_PROJECTION, loha(64, 64)))
    assert pack.inspect(adapter, models.sd3()).matched == 1
    assert root.handlers == handlers
