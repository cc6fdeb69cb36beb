"""Adapter Info and the base fingerprint: numbers against ComfyUI's own patching, warnings, the node's picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from . import models
from .pack import Pack

PROJECTION, QKV = (f"diffusion_model.joint_blocks.0.x_block.attn.{part}" for part in ("proj", "qkv"))


def matrices(model: Any) -> list[Tensor]:
    """The weights that a fingerprint is of."""
    return [value for name, value in model.model.diffusion_model.named_parameters() if value.ndim > 1]


def moved(model: Any, size: float, seed: int = 40) -> Any:
    """The model with every matrix changed by noise of a relative size, as a fine-tune does."""
    source = models.generator(seed)
    for value in matrices(model):
        value.data += size * value.norm() / value.numel() ** 0.5 * torch.randn(value.shape, generator=source)
    return model


def cast(model: Any, *dtypes: torch.dtype) -> Any:
    """The model with every matrix rounded to these, one after the other; the last is what it is stored in."""
    for value in matrices(model):
        for dtype in dtypes:
            value.data = value.data.to(dtype)
    return model


MAKERS = {
    "sd3": models.sd3,
    "sd15": lambda seed=0: models.unet("sd15", seed),
    "sdxl": lambda seed=0: models.unet("sdxl", seed),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)


# --------------------------------------------------------------------------------------------------- the fingerprint


@pytest.mark.parametrize("kind", MAKERS)
def test_every_pair_of_precisions_is_one_base(pack: Pack, kind: str) -> None:
    fingerprints = {dtype: pack.fingerprint.fingerprint(cast(MAKERS[kind](), dtype)) for dtype in DTYPES}
    other = {dtype: pack.fingerprint.fingerprint(cast(MAKERS[kind](seed=1), dtype)) for dtype in DTYPES}
    assert len(set(fingerprints.values())) == len(DTYPES)
    for first in DTYPES:
        assert len(fingerprints[first]) == 64
        assert int(fingerprints[first], 16)
        for second in DTYPES:
            pair = fingerprints[first], fingerprints[second]
            allowed = 0 if first == second else pack.fingerprint.tolerance(*pair) / 1.5
            assert pack.fingerprint.compare(*pair) <= allowed
            assert pack.fingerprint.compare(fingerprints[first], other[second]) > 0.6
    loaded_finer = cast(MAKERS[kind](), torch.float8_e4m3fn, torch.float32)  # an fp8 file on a GPU without fp8
    assert pack.fingerprint.fingerprint(loaded_finer) == fingerprints[torch.float8_e4m3fn]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float32, 3e-4),
        (torch.float32, 1e-3),
        (torch.float16, 1e-3),
        (torch.bfloat16, 1e-2),
        (torch.float8_e5m2, 0.3),
        (torch.float8_e4m3fn, 0.5),
    ],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_fine_tune_is_told_from_its_base(pack: Pack, kind: str, dtype: torch.dtype, size: float) -> None:
    recorded = pack.fingerprint.fingerprint(MAKERS[kind]())
    tuned = cast(moved(MAKERS[kind](), size), dtype)
    assert pack.fingerprint.same_base(recorded, tuned) is False
    difference = pack.fingerprint.compare(recorded, pack.fingerprint.fingerprint(tuned))
    assert 0.5 * size < difference < 1.7 * size
    recorded = pack.fingerprint.fingerprint(cast(MAKERS[kind](), dtype))  # both files in the same precision
    assert pack.fingerprint.same_base(recorded, tuned) is False


def quantised_sd3(form: str, seed: int = 0) -> Any:
    """An SD3 whose linear layers are in one of ComfyUI's quantised forms, by its own loader."""
    import comfy.quant_ops
    import comfy.sd

    layout = comfy.quant_ops.QUANT_ALGOS[form]["comfy_tensor_layout"]
    state = models.sd3_state(seed)
    for key in [key for key, value in state.items() if key.endswith("weight") and value.ndim == 2]:
        if "embedder" in key or "final" in key:
            continue
        made = comfy.quant_ops.QuantizedTensor.from_float(state.pop(key), layout)
        state |= made.state_dict(key)
        marks = json.dumps({"format": form}).encode()
        state[f"{key.removesuffix('weight')}comfy_quant"] = torch.tensor(list(marks), dtype=torch.uint8)
    return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": torch.float32})


@pytest.mark.parametrize("form", ["float8_e4m3fn", "nvfp4", "int8_tensorwise"])
def test_a_quantised_copy_is_the_same_base(pack: Pack, form: str) -> None:
    import comfy.quant_ops

    if form not in comfy.quant_ops.QUANT_ALGOS:
        pytest.skip(f"this ComfyUI has no {form}")
    recorded = pack.fingerprint.fingerprint(models.sd3())
    model = quantised_sd3(form)
    stored = model.model.diffusion_model.joint_blocks[0].x_block.attn.proj.weight
    assert isinstance(stored, comfy.quant_ops.QuantizedTensor)
    assert pack.fingerprint.same_base(recorded, model) is True
    assert pack.fingerprint.same_base(recorded, quantised_sd3(form, seed=1)) is False
    info = pack.inspect(pack.adapter(model, [], shapes={PROJECTION: (64, 64)}), model)
    assert info.matched == 1
    assert any("dequantised" in note for note in info.notes)


def test_what_is_on_the_model_does_not_count(pack: Pack) -> None:
    """Patches, before and after they are put into the weights, low VRAM, hooks' backup, and the order of the layers."""
    model = models.sd3()
    recorded = pack.fingerprint.fingerprint(model)
    names = [
        key.removesuffix(".weight")
        for key, value in model.model.state_dict().items()
        if key.endswith(".weight") and value.ndim == 2
    ]
    patched = pack.apply(pack.adapter(model, names), model)[0]
    assert pack.fingerprint.fingerprint(patched) == recorded
    with torch.inference_mode():
        for memory in (0, 1):  # 0: all of it
            patched.patch_model(models.DEVICE, lowvram_model_memory=memory)
            assert bool(patched.backup) is (memory == 0)
            assert pack.fingerprint.fingerprint(patched) == recorded
            assert pack.fingerprint.fingerprint(model) == recorded  # a clone of the same network
            patched.unpatch_model(models.CPU)
        weight = model.model.get_parameter(f"{PROJECTION}.weight")
        for key in (f"{name}.weight" for name in names):
            weight = model.model.get_parameter(key)
            model.hook_backup[key] = (weight.clone(), weight.device)
            weight.mul_(-1.0).add_(0.3)
    assert pack.fingerprint.fingerprint(model) == recorded
    model.hook_backup.clear()
    assert pack.fingerprint.same_base(recorded, model) is False
    model = models.sd3()
    blocks = model.model.diffusion_model._modules
    for name in reversed(list(blocks)):
        blocks[name] = blocks.pop(name)
    assert pack.fingerprint.fingerprint(model) == recorded


def test_one_number_by_hand(pack: Pack) -> None:
    """Scaled copies are the same, zeros are allowed, and what is no fingerprint is not compared."""
    fp = pack.fingerprint
    model = models.sd3()
    recorded = fp.fingerprint(model)
    for value in matrices(model):
        value.data *= 4.0
    assert fp.fingerprint(model) == recorded
    for value in matrices(model):
        value.data.zero_()
    assert fp.fingerprint(model) == "df10" + "8000" * 15
    assert fp.compare(recorded, recorded) == 0
    for text in ("", "ab" * 32, recorded[:-1], "df19" + recorded[4:], recorded[:-1] + "x"):
        assert fp.compare(recorded, text) is None
        assert fp.same_base(text, model) is None


def test_the_warning(pack: Pack) -> None:
    note = pack.fingerprint.base_note
    model = models.sd3()
    adapter = pack.adapter(
        model, [PROJECTION], metadata={"base_hash": pack.fingerprint.fingerprint(model), "base_model": "SD3"}
    )
    assert note(adapter, model) is None
    assert note(adapter, cast(models.sd3(), torch.bfloat16)) is None
    assert note(adapter, pack.apply(adapter, model)[0]) is None
    tuned = note(adapter, moved(models.sd3(), 0.03))
    assert tuned.startswith(
        "WARNING: the adapter was trained on another base (SD3): the weights of the connected SD3 differ by about "
    )
    percent = float(tuned.split("about ")[1].split(" %")[0])
    assert 2 < percent < 5
    assert "Load the checkpoint that it was trained on" in tuned
    assert "are unrelated to" in note(adapter, models.sd3(seed=1))
    assert "the connected SDXL are unrelated to" in note(adapter, models.unet("sdxl"))
    for metadata in ({}, {"base_hash": "ab" * 32}, {"base_hash": ""}):
        assert note(pack.adapter(model, [PROJECTION], metadata=metadata), models.sd3(seed=1)) is None
    assert note(dict(adapter), models.sd3(seed=1)) is None  # a plain dict of ComfyUI's own nodes


def test_what_is_trained_says_its_base(pack: Pack, tmp_path: Path) -> None:
    with torch.inference_mode():
        model = models.sd3()
        recorded = pack.fingerprint.fingerprint(model)
        patched = pack.apply(pack.adapter(model, [PROJECTION]), model)[0]
        for trained_on in (model, patched):
            settings = pack.settings.Settings("deft", 2, 2, 1e-3, layers="attention")
            material = pack.material.Material([models.latents(model)], [models.conditioning()])
            adapter = pack.loop.train(trained_on, material, settings, lambda _: None).adapter
            assert adapter.metadata["base_hash"] == recorded
    header = pack.native.native_metadata(adapter, name="dog", version="1", base_hash=adapter.metadata["base_hash"])
    path = pack.native.write(adapter, tmp_path / "dog.safetensors", header)
    with safe_open(path, "pt") as file:
        assert file.metadata()["base_hash"] == recorded
        assert "ss_sd_model_hash" not in file.metadata()  # there managers look for a file's SHA-256
    assert pack.inspect(adapter, model).warning is None
    assert pack.inspect(adapter, models.sd3(seed=1)).warning is not None


# --------------------------------------------------------------------------------------------------------- the numbers


def entropy_rank(matrix: Tensor) -> float:
    sigma = torch.linalg.svdvals(matrix.double())
    p = (sigma / sigma.sum()).clamp(min=1e-300)
    return float(torch.exp(-(p * p.log()).sum()))


def check(change: Any, after: Tensor, before: Tensor) -> None:
    """The numbers of one layer against the weight that ComfyUI's own patching makes."""
    delta, base = after.double() - before.double(), before.double()
    matrix = delta.flatten(1) if delta.ndim > 1 else delta[None]
    assert change.norm == pytest.approx(float(delta.norm()), rel=1e-4)
    assert change.ratio == pytest.approx(float(delta.norm() / base.norm()), rel=1e-4)
    assert change.effective_rank == pytest.approx(entropy_rank(matrix), rel=5e-3)
    stable = float(delta.norm() / torch.linalg.matrix_norm(matrix, 2)) ** 2
    assert change.stable_rank == pytest.approx(stable, rel=1e-4)


def mixed(pack: Pack, model: Any) -> tuple[Any, dict[str, str]]:
    """Layers of every kind on a UNet, and the method of each weight."""

    def key(index: int, part: str) -> str:
        return f"diffusion_model.{'middle_block' if index == 0 else 'output_blocks.3'}.1.transformer_blocks.0.{part}"

    names = {
        "deft": key(0, "attn1.to_q"),
        "para": key(0, "attn1.to_k"),
        "lora": key(0, "attn2.to_k"),
        "svdiff": key(1, "attn1.to_k"),
        "oft": key(1, "attn1.to_v"),
        "dora": key(1, "attn2.to_v"),
        "conv": "diffusion_model.input_blocks.1.0.in_layers.2",
    }
    state = model.model.state_dict()
    shape = {label: tuple(state[f"{name}.weight"].shape) for label, name in names.items()}
    tensors: dict[str, Tensor] = {}
    for label in ("deft", "para", "lora", "conv"):
        method = "deft" if label == "conv" else label
        tensors |= (
            pack.adapter(model, [names[label]], method, projector="relu")
            if label == "deft"
            else pack.adapter(model, [names[label]], method)
        )
    tensors[f"{names['svdiff']}.delta"] = 0.3 * models.random(min(shape["svdiff"]), seed=60)
    tensors[f"{names['oft']}.oft_rotation"] = torch.linalg.qr(
        torch.eye(8) + 0.2 * models.random(shape["oft"][1] // 8, 8, 8, seed=61)
    )[0]
    rows, columns = shape["dora"]
    tensors |= {
        f"{names['dora']}.{suffix}": value
        for suffix, value in {
            "dora_up": models.random(rows, 3, seed=62),
            "dora_down": models.random(3, columns, seed=63),
            "dora_magnitude": models.random(rows, seed=64).abs(),
            "alpha": torch.tensor(2.0),
        }.items()
    }
    own = {names[label]: "deft" if label == "conv" else label for label in names}
    # What ComfyUI's own loader reads, under other namings.
    size = state[f"{key(1, 'attn1.to_q')}.weight"].shape[0]
    kohya = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v"
    tensors |= {
        f"{kohya}.lora_up.weight": models.random(64, 4, seed=65),
        f"{kohya}.alpha": torch.tensor(2.0),
        f"{kohya}.lora_down.weight": models.random(4, 64, seed=66),
    }
    loha, lokr, diff, old = (key(1, part) for part in ("attn1.to_q", "attn2.to_q", "norm1", "attn2.to_out.0"))
    for index, (a, b) in enumerate((("w1_a", "w1_b"), ("w2_a", "w2_b"))):
        tensors |= {
            f"{loha}.hada_{a}": models.random(size, 2, seed=67 + index),
            f"{loha}.hada_{b}": models.random(2, size, seed=70 + index),
        }
    tensors |= {
        f"{lokr}.lokr_w1": models.random(4, 8, seed=73),
        f"{lokr}.lokr_w2": models.random(size // 4, size // 8, seed=74),
    }
    tensors |= {f"{diff}.diff": models.random(size, seed=75)}
    tensors |= {
        f"{old}.lora_A.weight": models.random(3, size, seed=76),
        f"{old}.lora_B.weight": models.random(size, 3, seed=77),
    }
    others = {key(0, "attn1.to_v"): "lora", loha: "loha", lokr: "lokr", diff: "diff", old: "lora"}
    return pack.adapters.Adapter(tensors), {f"{name}.weight": kind for name, kind in (own | others).items()}


def test_every_kind_against_comfyuis_own_patching(pack: Pack) -> None:
    model = models.unet()
    adapter, kinds = mixed(pack, model)
    before, after = models.weights(model), models.patched_weights(pack.apply(adapter, model)[0])
    seen = []
    info = pack.inspect(adapter, model, progress=lambda done, total: seen.append((done, total)))
    assert {row.key: row.method for row in info.rows} == kinds
    assert info.matched == len(kinds)
    assert info.unmatched == []
    assert info.warning is None
    assert seen == [(done + 1, len(kinds)) for done in range(len(kinds))]
    for row in info.rows:
        check(row.change, after[row.key], before[row.key])
    assert sum(row.parameters for row in info.rows) == info.parameters == pack.adapters.count_parameters(adapter)
    ranks = {row.method: row.rank for row in info.rows if row.key != PROJECTION}
    assert ranks["dora"] == 3
    assert ranks["loha"] == 2
    assert ranks["svdiff"] is None
    assert ranks["oft"] is None
    assert info.method == f"mixed ({', '.join(sorted(set(kinds.values())))})"
    assert [row.block for row in info.rows] == sorted(
        (row.block for row in info.rows), key=["input_blocks.1.0", "middle_block.1", "output_blocks.3.1"].index
    )
    assert all(torch.equal(value, before[key]) for key, value in models.weights(model).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_coarser_bases(pack: Pack, dtype: torch.dtype) -> None:
    """The weights as they are stored count; the change is not rounded to their precision."""
    model = cast(models.unet(), dtype)
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    adapter = pack.adapter(model, [name])
    info = pack.inspect(adapter, model)
    plain = cast(models.unet(), dtype, torch.float32)
    after = models.patched_weights(pack.apply(adapter, plain)[0])
    check(info.rows[0].change, after[f"{name}.weight"], models.weights(plain)[f"{name}.weight"])
    assert ("dequantised from float8_e4m3fn" in info.text()) is (dtype == torch.float8_e4m3fn)


def test_slices_and_swapped_rows(pack: Pack) -> None:
    model = models.sd3()
    shapes = {
        "transformer_blocks.0.attn.to_q": (64, 64),
        "transformer_blocks.0.attn.to_v": (64, 64),
        "norm_out.linear": (128, 64),
    }
    adapter = pack.adapter(model, [], shapes=shapes)
    before, after = models.weights(model), models.patched_weights(pack.apply(adapter, model)[0])
    info = pack.inspect(adapter, model)
    rows = {row.name: row for row in info.rows}
    key = f"{QKV}.weight"
    for name, part in (
        ("transformer_blocks.0.attn.to_q", slice(64)),
        ("transformer_blocks.0.attn.to_v", slice(128, 192)),
    ):
        assert rows[name].key == key
        assert rows[name].block == "joint_blocks.0"
        check(rows[name].change, after[key][part], before[key][part])
    row = rows["norm_out.linear"]
    check(row.change, after[row.key], before[row.key])
    assert [block.name for block in info.blocks()] == ["joint_blocks.0", "final_layer.adaLN_modulation.1"]


def test_other_patches_do_not_change_the_numbers(pack: Pack) -> None:
    model = models.sd3()
    adapter, other = pack.adapter(model, [PROJECTION, QKV]), pack.adapter(model, [PROJECTION], "lora", seed=50)
    clean = pack.inspect(adapter, model)
    patched = pack.apply(other, model)[0]
    with torch.inference_mode():
        patched.patch_model(models.DEVICE)
        loaded = pack.inspect(adapter, patched)
        patched.unpatch_model(models.CPU)
    assert [row.change for row in loaded.rows] == [row.change for row in clean.rows]
    assert clean.notes == []
    assert "SD3 has other patches on 1 of these weights" in loaded.notes[0]


def test_blocks_together(pack: Pack) -> None:
    """The layers of a block as one vector."""
    model = models.sd3()
    names = [PROJECTION, QKV, "diffusion_model.joint_blocks.0.context_block.attn.qkv"]
    adapter = pack.adapter(model, names)
    before, after = models.weights(model), models.patched_weights(pack.apply(adapter, model)[0])
    (block,) = pack.inspect(adapter, model).blocks()
    keys = [f"{name}.weight" for name in names]
    delta = torch.cat([(after[key] - before[key]).flatten() for key in keys])
    base = torch.cat([before[key].flatten() for key in keys])
    assert (block.name, block.layers, block.rank) == ("joint_blocks.0", 3, 4)
    assert block.ratio == pytest.approx(float(delta.norm() / base.norm()), rel=1e-4)
    ranks = [entropy_rank(after[key] - before[key]) for key in keys]
    assert block.effective_rank == pytest.approx(sum(ranks) / 3, rel=5e-3)
    assert block.parameters == pack.adapters.count_parameters(adapter)
    projectors = [adapter[f"{name}.deft_Q"].double() for name in names]
    removed = torch.cat([(Q @ Q.T @ before[key].double()).flatten() for Q, key in zip(projectors, keys, strict=True)])
    assert block.removed == pytest.approx(float(removed.norm() / base.norm()), rel=1e-4)


# ---------------------------------------------------------------------------------------------------------- the report


def test_matched_unmatched_and_misfits(pack: Pack) -> None:
    model = models.sd3()
    shapes = {PROJECTION: (64, 64), QKV: (63, 64), "diffusion_model.joint_blocks.7.x_block.attn.proj": (64, 64)}
    adapter = pack.adapter(
        model,
        [],
        shapes=shapes,
        metadata={"method": "deft", "projector": "qr", "ss_tag": "t" * 900, "training": '{"steps": 70, "seed": 4}'},
    )
    adapter |= {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": models.random(8, 2, seed=1),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": models.random(2, 8, seed=1),
    }
    info = pack.inspect(adapter, model)
    report = info.text()
    assert info.matched == 1
    assert "matched: 1 weights of SD3" in report
    assert info.unmatched[:2] == [
        "diffusion_model.joint_blocks.7.x_block.attn.proj",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    ]
    assert "unmatched: 3 layers: " in report
    assert f"{QKV} (deft of another size" in report
    assert "projector: qr" in report
    assert "training: steps 70, seed 4" in report
    assert "(900 characters)" in report
    applied = pack.apply(adapter, model)[2]
    assert applied.unmatched == info.unmatched
    assert applied.matched == info.matched


def test_without_a_model(pack: Pack) -> None:
    model = models.unet()
    adapter, _ = mixed(pack, model)
    info = pack.inspect(adapter)
    assert info.matched is None
    assert info.changes == []
    assert len(info.rows) == info.layers == 12
    assert sum(row.parameters for row in info.rows) == info.parameters
    (row,) = (row for row in info.rows if row.method == "svdiff")
    assert row.norm == pytest.approx(float(adapter[f"{row.name}.delta"].norm()), rel=1e-6)
    report = info.text()
    assert "Connect the model" in report
    assert "|delta W|/|W|" not in report
    assert "metadata:\n  none" in report
    single = pack.inspect(pack.adapter(model, ["diffusion_model.time_embed.0", "diffusion_model.out.2"]))
    assert single.title == "deft, rank 4"
    assert [row.block for row in single.rows] == ["out.2", "time_embed.0"]


def test_nothing_fits(pack: Pack) -> None:
    adapter = pack.adapter(models.unet(), ["diffusion_model.time_embed.0"])
    info = pack.inspect(adapter, models.sd3())
    assert info.matched == 0
    assert info.unmatched == ["diffusion_model.time_embed.0"]
    assert info.changes == []
    assert "matched: 0 weights of SD3" in info.text()
    assert pack.plots.adapter_picture(info).shape[2] == 3


@pytest.mark.parametrize("end", ["lora_down.weight", "hada_w1_b"])
def test_a_factor_that_is_a_number_has_no_rank(pack: Pack, end: str) -> None:
    adapter = pack.adapters.Adapter({f"{PROJECTION}.{end}": torch.tensor(1.0)})
    for info in (pack.inspect(adapter), pack.inspect(adapter, models.sd3())):
        assert [row.rank for row in info.rows] == [None]


def test_bad_adapters(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [PROJECTION])
    adapter[f"{PROJECTION}.deft_R"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"The adapter has a NaN or infinity in .*deft_R"):
        pack.inspect(adapter, model)
    with pytest.raises(ValueError, match="holds no tensors"):
        pack.inspect({})
    foreign = pack.adapter(model, [PROJECTION], metadata={"training": "not json", "other": ""})
    assert "training: not json" in pack.inspect(foreign, model).text()


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight", "input_blocks.4.1"),
        ("diffusion_model.middle_block.1.proj_in.weight", "middle_block.1"),
        ("diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "joint_blocks.0"),
        ("diffusion_model.double_blocks.3.img_attn.qkv.weight", "double_blocks.3"),
        ("diffusion_model.x_embedder.proj.weight", "x_embedder"),
        ("clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight", "clip_l.layers.3"),
        ("t5xxl.transformer.encoder.block.10.layer.0.SelfAttention.q.weight", "t5xxl.block.10"),
        ("base_model.model.down_blocks.0.attentions.1.proj_in", "down_blocks.0"),
        ("unet.base_model.model.up_blocks.2.resnets.0.conv1", "up_blocks.2"),
        ("lora_unet_down_blocks_0_attentions_1_proj_in", "down_blocks_0"),
        ("lora_unet_input_blocks_4_1_proj_in", "input_blocks_4_1"),
        ("lora_te1_text_model_encoder_layers_11_mlp_fc1", "lora_te1_layers_11"),
    ],
)
def test_block_names(pack: Pack, name: str, block: str) -> None:
    assert pack.convert.inspect.block_of(name) == block


# ------------------------------------------------------------------------------------------------ the picture, the node


def ink(picture: Any) -> float:
    """The share of pixels that are not white."""
    return float((torch.as_tensor(picture) < 250).any(dim=-1).double().mean())


@pytest.mark.parametrize("blocks", [1, 5, 60, 200])
def test_the_picture_grows_with_the_blocks(pack: Pack, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend needs a display, and there is none."""
    import matplotlib

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setitem(matplotlib.rcParams, "backend", "TkAgg")
    rows = [
        pack.convert.inspect.LayerSummary(
            f"layer {index}",
            f"diffusion_model.double_blocks.{index}.a.weight",
            "deft",
            4,
            10,
            1.0,
            pack.deft_ops.inspection.Measured(0.1 + index, 100.0, 2.0, 1.5),
        )
        for index in range(blocks)
    ]
    info = pack.convert.inspect.Information(
        "deft", 4, 10 * blocks, blocks, {"modelspec.title": "a $dog$ _x_"}, rows, blocks, ["Flux"]
    )
    picture = pack.plots.adapter_picture(info)
    shown = min(blocks, pack.plots.MOST_BLOCKS)
    assert picture.shape[1] == 1200
    assert picture.dtype.name == "uint8"
    assert 0.02 < ink(picture) < 0.7
    assert abs(picture.shape[0] - 120 * (0.19 * max(shown, 4) + 1.5)) <= 1
    shorter = [
        row
        if index
        else pack.convert.inspect.LayerSummary(
            row.name, row.key, row.method, 4, 10, 1.0, pack.deft_ops.inspection.Measured(1e-9, 100.0, 2.0, 1.5)
        )
        for index, row in enumerate(rows)
    ]
    if blocks == 5:
        assert (
            pack.plots.adapter_picture(
                pack.convert.inspect.Information("deft", 4, 50, 5, info.metadata, shorter, 5, ["Flux"])
            )
            != picture
        ).any()


def test_the_largest_blocks_are_kept_when_there_are_too_many(pack: Pack) -> None:
    rows = [
        pack.convert.inspect.LayerSummary(
            f"layer {index}",
            f"b.{index}.weight",
            "deft",
            4,
            10,
            1.0,
            pack.deft_ops.inspection.Measured(float(index % 97), 100.0, 2.0, 1.5),
        )
        for index in range(97)
    ]
    info = pack.convert.inspect.Information("deft", 4, 10, 97, {}, rows)
    kept = pack.plots._largest(info.blocks(), True)
    assert [block.name for block in kept] == [f"b.{index}" for index in range(97 - pack.plots.MOST_BLOCKS, 97)]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_the_node_on_a_trained_adapter(comfyui: Any, pack: Pack) -> None:
    """Train, then look at the result: alone, on its base, and on its base in fp8, all through the executor."""

    def denoiser(dtype: str) -> dict[str, Any]:
        return node("UNETLoader", unet_name="deft_demo_denoiser.safetensors", weight_dtype=dtype)

    run = comfyui.run(
        {
            "model": denoiser("default"),
            "fp8": denoiser("fp8_e4m3fn"),
            "clip": node("DEFTDemoTextEncoder"),
            "vae": node("VAELoader", vae_name="deft_demo_vae.safetensors"),
            "subject": node("DEFTDemoSubject", subject="teddy_bear", token="sks"),
            "latents": node("VAEEncode", pixels=["subject", 0], vae=["vae", 0]),
            "captions": node("CLIPTextEncode", text=["subject", 1], clip=["clip", 0]),
            "train": node(
                "DEFTTrainAdapter",
                model=["model", 0],
                latents=["latents", 0],
                positive=["captions", 0],
                method="deft",
                **{"method.rank": 4, "method.alpha": 0, "method.projector": "qr", "method.start": "identity"},
                steps=2,
                learning_rate=0.01,
                batch_size=2,
                layers="attention",
                pattern="",
                seed=1,
                precision="fp32",
                gradient_checkpointing=False,
            ),
            "alone": node("DEFTAdapterInfo", adapter=["train", 0]),
            "base": node("DEFTAdapterInfo", adapter=["train", 0], model=["model", 0], clip=["clip", 0]),
            "coarse": node("DEFTAdapterInfo", adapter=["train", 0], model=["fp8", 0]),
        },
        want=["train", "alone", "base", "coarse"],
    )
    adapter = run.output("train")
    for key in ("alone", "base", "coarse"):
        report, plot = run.output(key, 0), run.output(key, 1)
        assert report == run.text(key)
        assert report.startswith("deft, rank 4: 11 layers")
        assert report.splitlines()[1] == "method: DEFT, arXiv 2509.22793"
        assert f"base_hash: {adapter.metadata['base_hash']}" in report
        assert "training: " in report
        assert plot.shape[0] == 1
        assert plot.shape[3] == 3
        assert plot.shape[1] > 200
        assert plot.shape[2] == 1200
        assert plot.dtype == torch.float32
        assert float(plot.max()) == 1
        assert 0.02 < ink(plot[0] * 255) < 0.7
        assert len(run.ui[key]["images"]) == 1
        assert "WARNING" not in report
    assert "matched: 11 weights of" in run.output("base")
    assert "|delta W| / |W| at strength 1" in run.output("base")
    assert "dequantised from float8_e4m3fn" in run.output("coarse")
    other = models.sd3(seed=9)
    shown = (
        comfyui.pack_nodes["DEFTAdapterInfo"]
        .execute(pack.adapter(other, [PROJECTION], metadata={"base_hash": adapter.metadata["base_hash"]}), other)
        .result
    )
    assert "WARNING: the adapter was trained on another base" in shown[0]


def test_text_encoder_layers(comfyui_session: Any, pack: Pack) -> None:
    import comfy.lora

    clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
    names = comfyui_session.module("models.names").clip_names(clip)
    state = clip.patcher.model.state_dict()
    layers = [
        name
        for name, target in names.items()
        if name.startswith("text_encoders.")
        and isinstance(target, str)
        and state[target].ndim == 2
        and ".layers." in target
    ]
    assert len(layers) > 3
    adapter = pack.adapter(None, [], shapes={name: tuple(state[names[name]].shape) for name in layers})
    patched = pack.apply(adapter, None, clip)[1]
    info = pack.inspect(adapter, None, clip)
    assert info.matched == len(layers)
    assert info.warning is None
    for row in info.rows:
        before, patches = state[row.key].float(), patched.patcher.patches[row.key]
        check(row.change, comfy.lora.calculate_weight(patches, before.clone(), row.key), before)
    assert len(pack.inspect(adapter, models.sd3()).unmatched) == len(layers)
