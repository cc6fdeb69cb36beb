"""Training of methods without a rank, SVDiff and DreamBooth: what comes out, what is kept on disk, what is refused."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from . import models
from .test_training import as_loaded, bad, train

ENCODER = "text_model.encoder.layers.0.mlp.fc1"
ENDINGS = {"svdiff": {"delta"}, "dreambooth": {"diff", "diff_b"}}


@pytest.mark.parametrize("make", [models.sd3, models.unet], ids=["sd3", "unet"])
@pytest.mark.parametrize("method", ENDINGS)
def test_every_layer_is_trained_saved_and_applied(
    pack: Any,
    comfyui_session: Any,
    method: str,
    make: Any,
    tmp_path: Path,
) -> None:
    """The weights that come from the file are those that the training ended with, in our loader and in ComfyUI's."""
    import comfy.sd
    import comfy.utils

    model = as_loaded(make)
    result = train(pack, model, method=method, layers="everything", steps=6, learning_rate=1e-3)
    layers = pack.targets.select(model.model.diffusion_model, "everything")
    names = {key.rpartition(".")[0].removeprefix("diffusion_model.") for key in result.adapter}
    assert names == set(layers)
    assert {key.rpartition(".")[2] for key in result.adapter} == ENDINGS[method]
    assert any(layer.weight.ndim == 1 for layer in layers.values())

    path = tmp_path / f"{method}.safetensors"
    comfyui_session.module("nodes.saving").write_native(result.adapter, path.with_suffix(""))
    adapter = comfyui_session.module("deft_ops.files").read(path)
    assert adapter.metadata["method"] == method
    plain = make()  # not loaded yet: ComfyUI patches a loaded model in other ways
    applied, _, report = pack.apply(adapter, plain)
    assert not report.unmatched
    before, after = models.weights(plain), models.patched_weights(applied)
    by_core, _ = comfy.sd.load_lora_for_models(plain, None, comfy.utils.load_torch_file(str(path)), 1.0, 1.0)
    core = models.patched_weights(by_core)
    # In a small SD3 of one block, nobody reads what the text stream's last norms give.
    idle = [name for name in layers if f"diffusion_model.{name}" in result.report]
    assert len(idle) < 3
    method_of = pack.methods.get(method)
    for name in layers:
        key = f"diffusion_model.{name}"
        tensors = {k.rpartition(".")[2]: v for k, v in result.adapter.items() if k.rpartition(".")[0] == key}
        weight = before[f"{key}.weight"]
        if method == "svdiff":
            change = method_of.delta(method_of.from_tensors(tensors), weight)
        else:
            change = tensors["diff"]
            if "diff_b" in tensors:
                assert torch.allclose(after[f"{key}.bias"], before[f"{key}.bias"] + tensors["diff_b"], atol=1e-7)
        assert change.any() or name in idle
        assert torch.allclose(after[f"{key}.weight"], weight + change, atol=1e-6)
        assert torch.allclose(core[f"{key}.weight"], weight + change, atol=1e-6)


@pytest.mark.parametrize("method", ENDINGS)
def test_what_training_sees_is_what_the_adapter_gives(pack: Any, method: str) -> None:
    """The first loss of a training on top of the adapter is that of going on with it."""
    model = as_loaded(models.unet)
    chosen = {"method": method, "layers": "everything", "learning_rate": 1e-3, "seed": 4}
    # The same noise in both: one step more than the first, and one step at the same place of the random numbers.
    longer = train(pack, model, steps=5, **chosen)
    shorter = train(pack, model, steps=4, **chosen)
    assert longer.losses[:4] == shorter.losses
    applied, _, _ = pack.apply(shorter.adapter, model)
    with torch.inference_mode(False), torch.enable_grad():
        material = pack.material.Material([models.latents(model, 3)], [models.conditioning()])
        settings = pack.settings.Settings(method, 1, 5, 1e-3, layers="everything", seed=4)
        trainer = pack.trainer.Trainer(applied, settings, pack.material.Dataset(applied.model, material, settings))
        import comfy.model_management

        with torch.inference_mode():
            comfy.model_management.load_models_gpu([applied])
        with trainer.prepared():
            for _ in range(4):  # only the random numbers matter: nothing is learned
                trainer.gradients()
            assert trainer.gradients() == pytest.approx(longer.losses[4], rel=1e-4)


def test_decompositions_are_kept_and_checked(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = as_loaded(models.sd3)
    method = pack.methods.get("svdiff")
    counted: list[int] = []
    own = method.training.base
    counting = replace(own, of=lambda weight: (counted.append(1), own.of(weight))[1])
    training = replace(method.training, base=counting)
    monkeypatch.setitem(pack.methods.METHODS, "svdiff", replace(method, training=training))

    def run(seed: int = 0) -> Any:
        counted.clear()
        with torch.inference_mode():
            material = pack.material.Material([models.latents(model, 2)], [models.conditioning()])
            settings = pack.settings.Settings("svdiff", 1, 2, 1e-2, layers="everything", seed=seed)
            return pack.loop.train(model, material, settings, lambda progress: None, cache=tmp_path / "cache")

    first = run()
    layers = len(first.adapter)
    assert len(counted) == layers
    (base,) = (tmp_path / "cache").iterdir()
    assert base.name == first.adapter.metadata["base_hash"]
    assert len(list(base.iterdir())) == layers
    second = run()
    assert not counted
    assert all(torch.equal(first.adapter[key], second.adapter[key]) for key in first.adapter)
    # Cut off, and of another weight under the same name: both are made anew.
    files = sorted(base.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[2].write_bytes(files[1].read_bytes())
    third = run()
    assert len(counted) == 2
    assert all(torch.equal(first.adapter[key], third.adapter[key]) for key in first.adapter)


def test_a_full_disk_does_not_stop_the_decomposition(
    pack: Any,
    comfyui_session: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    decompositions = comfyui_session.module("trainers.step.decompositions")
    monkeypatch.setattr(decompositions.safe, "write_files", full)
    decomposition = decompositions.Decompositions(tmp_path).of(
        "a", torch.randn(4, 3), pack.methods.training_of("svdiff").base
    )
    assert decomposition.sigma.shape == (3,)
    assert "could not be kept (No space left on device)" in caplog.text


def test_the_rate_of_norms(pack: Any) -> None:
    model = as_loaded(models.unet)
    chosen = {"method": "svdiff", "layers": "everything", "steps": 1, "learning_rate": 1e-3}
    adapter = train(pack, model, norm_rate=0.1, **chosen).adapter
    kinds = set()
    for name, layer in pack.targets.select(model.model.diffusion_model, "everything").items():
        moved = float(adapter[f"diffusion_model.{name}.delta"].abs().max())
        norm = layer.weight.ndim == 1
        kinds.add((norm, round(moved, 6)))  # AdamW's first step is its rate where the gradient is not tiny
    assert {(True, 1e-4), (False, 1e-3)} <= kinds
    assert all(moved <= (1e-4 if norm else 1e-3) for norm, moved in kinds)


def test_what_is_refused(pack: Any, comfyui_session: Any) -> None:
    bad(pack, "Norms cannot have a rank: choose other layers than 'everything' for deft", layers="everything")
    memory = comfyui_session.module("trainers.step.memory")
    huge = nn.Linear(10**7, 10**7, device="meta")
    for method, needed in (("dreambooth", 16e14), ("svdiff", 8e14)):
        settings = pack.settings.Settings(method, 1, 1, 1e-3)
        text = f"Training {method} on these 1 layers needs {needed / 2**30:.0f}.*are free: choose fewer layers, "
        with pytest.raises(ValueError, match=text + "the optimizer AdamW 8-bit, or a method with a rank"):
            memory.check_free(torch.device("cpu"), [huge], settings)
        with pytest.raises(ValueError, match="are free: choose fewer layers, or a method with a rank"):
            memory.check_free(torch.device("cpu"), [huge], settings.changed(optimizer="AdamW 8-bit"))


@pytest.mark.parametrize("text", [False, True], ids=["model", "with text encoder"])
def test_svdiff_files_of_the_common_implementation(
    pack: Any,
    comfyui_session: Any,
    text: bool,
    tmp_path: Path,
) -> None:
    """Trained here, written under diffusers' names, the paths and sizes are those of diffusers' network; read back."""
    from safetensors.torch import load_file

    network = models.diffusers_sd15()
    model = models.comfy_sd15(network)
    adapter = train(pack, model, method="svdiff", layers="everything", steps=2).adapter
    if text:
        adapter[f"text_encoders.clip_l.transformer.{ENCODER}.delta"] = torch.ones(4)
    files = comfyui_session.module("deft_ops.files")
    names = comfyui_session.module("models.names").module_names(model)
    folder = comfyui_session.module("deft_ops.files.svdiff").write(adapter, tmp_path / "out", names)
    written = load_file(folder / "spectral_shifts.safetensors")
    modules = dict(network.named_modules())
    expected = {
        f"{name}.delta": 1 if module.weight.ndim == 1 else min(module.weight.flatten(1).shape)
        for name, module in modules.items()
        if getattr(module, "weight", None) is not None
    }
    assert {key: len(value) for key, value in written.items()} == expected
    assert (folder / "spectral_shifts_te.safetensors").is_file() == text
    if text:
        assert load_file(folder / "spectral_shifts_te.safetensors").keys() == {f"{ENCODER}.delta"}
    again = files.read(folder / "spectral_shifts.safetensors")
    one, other = (pack.apply(read, models.comfy_sd15(network))[0] for read in (again, adapter))
    one, other = models.patched_weights(one), models.patched_weights(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_svdiff_folders_hold_svdiff_of_one_text_encoder(
    pack: Any,
    comfyui_session: Any,
    tmp_path: Path,
) -> None:
    write = comfyui_session.module("deft_ops.files.svdiff").write
    shifts = torch.ones(4)
    for tensors, text in (
        ({"diffusion_model.a.deft_Q": torch.ones(4, 2)}, "An SVDiff folder holds SVDiff layers only"),
        ({"diffusion_model.a.diff": torch.ones(4, 2)}, "An SVDiff folder holds SVDiff layers only"),
        ({"diffusion_model.qkv.delta": shifts}, "Layer diffusion_model.qkv has no name in diffusers"),
        (
            {f"text_encoders.clip_{kind}.transformer.{ENCODER}.delta": shifts for kind in "lg"},
            "room for one text encoder, not text_encoders.clip_g, text_encoders.clip_l",
        ),
    ):
        with pytest.raises(ValueError, match=text):
            write(pack.adapters.Adapter(tensors), tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


def test_dreambooth_becomes_a_small_lora(pack: Any, comfyui_session: Any) -> None:
    """Extract Adapter between base and trained model: all of the change at full rank, a part of it at rank 2."""
    model = as_loaded(models.unet)
    adapter = train(pack, model, method="dreambooth", layers="attention", steps=20, learning_rate=1e-3).adapter
    plain = models.unet()
    applied, _, _ = pack.apply(adapter, plain)
    node = comfyui_session.pack_nodes["DEFTExtractAdapter"]
    of_dreambooth = models.patched_weights(applied)
    for rank, full in ((64, True), (2, False)):
        extracted = node.execute(applied, models.unet(), "lora", rank, 0.0, True, False).result[0]
        of_lora = models.patched_weights(pack.apply(extracted, models.unet())[0])
        errors = [
            models.relative(of_lora[key] - value, of_dreambooth[key] - value)
            for key, value in models.weights(models.unet()).items()
            if (of_dreambooth[key] - value).norm() > 1e-6 and value.ndim > 1
        ]
        assert errors
        assert max(errors) < 1e-3 if full else min(errors) > 0.05 and max(errors) < 1
