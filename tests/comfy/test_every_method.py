"""One matrix through which every trainable method passes: train, stop and resume, save, read, apply, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deft_pack.deft_ops import methods

from . import models
from .pack import Pack
from .test_training_runs import as_loaded, same, settings


@pytest.mark.parametrize("method", methods.TRAINABLE)
def test_method(pack: Pack, method: str, tmp_path: Path) -> None:
    make = models.unet
    model = as_loaded(make)
    with torch.inference_mode():
        material = pack.material.Material([models.latents(model, 3)], [models.conditioning()])

    def train(steps: int, folder: Any = None) -> Any:
        chosen = settings(pack, method=method, layers="all linear and convolution", steps=steps, learning_rate=3e-3)
        with torch.inference_mode():
            cache = tmp_path / "decompositions"
            return pack.loop.train(model, material, chosen, lambda progress: None, folder=folder, cache=cache)

    # Stopped and resumed: the same bits.
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 3)
    whole = train(6)
    train(3, folder)
    resumed = train(6, folder)
    assert "resumed at step 3" in resumed.report
    assert same(whole.adapter, resumed.adapter)
    assert resumed.losses == whole.losses

    # Saved and read: nothing lost, and the record says what it is.
    path = pack.comfyui.module("nodes.saving").write_native(whole.adapter, tmp_path / "adapter")
    adapter = pack.files.read(path)
    assert same(adapter, whole.adapter)
    assert adapter.metadata["method"] == method

    # Applied: nothing at strength 0, more at 1 than at 0.5, and as ComfyUI's own loader does it where that reads it.
    before = models.weights(make())
    changed = {}
    for strength in (0.0, 0.5, 1.0):
        applied, _, report = pack.apply(adapter, make(), strength_model=strength)
        assert not report.unmatched
        assert report.matched > 0
        after = models.patched_weights(applied)
        changed[strength] = sum(float((after[key] - before[key]).norm()) for key in before)
    assert changed[0.0] == 0 < changed[0.5] < changed[1.0]
    if method != "svdiff":  # whose strength is inside of a relu
        assert changed[0.5] == pytest.approx(changed[1.0] / 2, rel=1e-3)

    # Exported: the same weights as a plain LoRA of full rank.
    lora, _ = pack.comfyui.module("convert.export").export(adapter, make())
    exported, _, _ = pack.apply(lora, make())
    one, other = models.patched_weights(exported), models.patched_weights(pack.apply(adapter, make())[0])
    matrices = [key for key in before if before[key].ndim > 1]
    assert max(models.relative(one[key], other[key]) for key in matrices) < 1e-5
    assert any((one[key] != before[key]).any() for key in matrices)
