"""Training of DoRA, LoKr and OFT: ComfyUI's own classes make the same weights of the files, and what is reported."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tools import same
from . import models
from .pack import Pack
from .test_training_runs import as_loaded, settings, train

NAMES = ("dora", "lokr", "oft")
LAYERS = "all linear and convolution"


def trained(pack: Pack, model: Any, method: str, **chosen: Any) -> Any:
    """A few steps on convolutions and linear layers."""
    return train(pack, model, **({"method": method, "layers": LAYERS, "steps": 5, "learning_rate": 1e-2} | chosen))


def by_core(model: Any, path: Path, strength: float) -> dict[str, torch.Tensor]:
    """The weights that ComfyUI's own Load LoRA makes of a file."""
    import comfy.sd
    import comfy.utils

    loaded, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path)), strength, 0.0)
    return models.patched_weights(loaded)


@pytest.mark.parametrize("make", [models.sd3, models.unet], ids=["sd3", "unet"])
@pytest.mark.parametrize("method", NAMES)
def test_comfyui_makes_the_same_weights_without_this_pack(
    pack: Pack, method: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """ComfyUI's classes alone make them, and with this pack's beside them; at other strengths where they are linear."""
    import comfy.weight_adapter

    path = tmp_path / "adapter.safetensors"
    result = trained(pack, as_loaded(make), method)
    pack.saving.write_native(result.adapter, path.with_suffix(""))
    before = models.weights(make())
    own = [cls for cls in comfy.weight_adapter.adapters if not cls.__module__.startswith("comfy.")]
    core = [cls for cls in comfy.weight_adapter.adapters if cls not in own]
    for strength in (1.0, 0.5):
        applied, _, report = pack.apply(pack.files.read(path), make(), strength_model=strength)
        assert report.matched
        assert not report.unmatched
        expected = models.patched_weights(applied)
        moved = {key: models.relative(expected[key], before[key]) for key in before}
        assert sum(value > 1e-4 for value in moved.values()) >= 10
        if strength != 1 and method == "oft":  # ComfyUI's class squares the strength
            continue
        for classes in (core, [*core, *own]):
            monkeypatch.setattr(comfy.weight_adapter, "adapters", classes)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                loaded = by_core(make(), path, strength)
            assert "ERROR" not in caplog.text
            left = [line for line in caplog.messages if "lora key not loaded" in line]
            assert all(line.endswith("dora_magnitude") for line in left)
            for key in before:
                assert models.relative(loaded[key], expected[key]) < 2e-6, key


@pytest.mark.parametrize("method", NAMES)
def test_what_training_sees_is_what_the_adapter_gives(pack: Pack, method: str) -> None:
    """The first loss of a training on top of the adapter is that of going on with it."""
    import comfy.model_management

    model = as_loaded(models.unet)
    longer, shorter = trained(pack, model, method, steps=5), trained(pack, model, method, steps=4)
    assert longer.losses[:4] == shorter.losses
    applied, _, _ = pack.apply(shorter.adapter, model)

    def fifth_loss(model: Any) -> float:
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([model])
        with torch.inference_mode(False), torch.enable_grad():
            material = pack.material.Material([models.latents(model, 3)], [models.conditioning()])
            chosen = settings(pack, method=method, steps=5, layers=LAYERS)
            trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
            with trainer.prepared():
                for _ in range(4):  # only the random numbers matter: nothing is learned
                    trainer.gradients()
                return trainer.gradients()

    assert fifth_loss(applied) == pytest.approx(longer.losses[4], rel=1e-4)
    assert fifth_loss(model) != pytest.approx(longer.losses[4], rel=1e-3)


@pytest.mark.parametrize("method", NAMES)
def test_seed_and_precision_of_the_adapter(pack: Pack, method: str) -> None:
    model = as_loaded(models.unet)
    first, second = trained(pack, model, method), trained(pack, model, method)
    assert same(first.adapter, second.adapter)
    assert first.losses == second.losses
    half = trained(pack, model, method, adapter_precision="bf16")
    assert half.losses != first.losses
    assert half.losses == pytest.approx(first.losses, rel=0.05)


@pytest.mark.parametrize("method", NAMES)
def test_norms_are_refused(pack: Pack, method: str) -> None:
    with pytest.raises(ValueError, match="choose other layers than 'everything' for " + method):
        trained(pack, as_loaded(models.unet), method, layers="everything")


def test_blocks_of_another_size_are_reported(pack: Pack) -> None:
    """SD 1.5's UNet ends with four channels."""
    report = trained(pack, as_loaded(models.unet), "oft", block_size=8).report
    assert "blocks of 4, as 8 does not divide the outputs" in report


@pytest.mark.parametrize("method", NAMES)
def test_a_limited_rank_says_what_is_kept(pack: Pack, method: str) -> None:
    model = as_loaded(models.unet)
    adapter = trained(pack, model, method).adapter
    # Under ComfyUI's own names a LoKr stays one, because ComfyUI reads it.
    lora, report = pack.export(adapter, models.unet(), rank=2, naming="kohya")
    assert "of the change's squared norm is kept" in report.text()
    assert 0 < report.energy < 1
    assert {len(lora[key]) for key in lora if key.endswith("lora_down.weight")} <= {1, 2}
