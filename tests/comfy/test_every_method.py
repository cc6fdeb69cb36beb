"""One matrix through which every trainable method passes.

Train, stop and resume, previews, save, read, apply, ComfyUI's own Load LoRA, the PEFT folder, export.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from deft_pack.deft_ops import methods

from ..tools import same
from . import models
from .pack import Pack
from .test_training_runs import Vae, as_loaded, run_of, settings


def begins_changed(method: str) -> bool:
    """Whether the method changes a weight before the first step, by its formula."""
    training, weight = methods.training_of(method), models.random(32, 24, seed=0)
    chosen = training.settings_of()
    factors = training.factors(training.init(weight, 2, chosen, torch.Generator().manual_seed(0)), chosen)
    change = methods.get(method).delta(training.for_saving(factors, weight), weight)
    return float(change.detach().norm() / weight.norm()) > 1e-3


@pytest.mark.parametrize("method", methods.TRAINABLE)
def test_method(pack: Pack, method: str, tmp_path: Path) -> None:
    import comfy.sd
    import comfy.utils
    import peft

    network = models.diffusers_sd15()

    def make() -> Any:
        return models.comfy_sd15(network)

    model = as_loaded(make)
    with torch.inference_mode():
        material = pack.material.Material([models.latents(model, 3)], [models.conditioning()])

    def train(steps: int, folder: Any = None, shown: Any = None) -> Any:
        chosen = settings(pack, method=method, layers="all linear and convolution", steps=steps, learning_rate=3e-3)
        with torch.inference_mode():
            cache = tmp_path / "decompositions"
            return pack.loop.train(
                model, material, chosen, lambda progress: None, folder=folder, cache=cache, shown=shown
            )

    # Stopped and resumed, with previews, and straight through without any: the same bits.
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 3)
    sampled = (
        models.conditioning(20),
        models.conditioning(30),
        {"samples": torch.zeros(1, models.channels(model), 8, 8)},
    )
    previews = pack.previews.Previews(3, Vae(), *sampled, 2, 3.0, "euler", "simple", 5)
    whole = train(6)
    stopped = train(3, folder, previews)
    resumed = train(6, folder, previews)
    assert "resumed at step 3" in resumed.report
    assert same(whole.adapter, resumed.adapter)
    assert resumed.losses == whole.losses

    # A preview is what ComfyUI's KSampler makes with the adapter saved at its step. The first is the base's picture,
    # but for methods that begin by removing a random subspace.
    pictures = dict([*stopped.pictures, *resumed.pictures])
    expected = {0: Vae().decode(models.sample(model))}
    for step in (3, 6):
        file = run_of(tmp_path / "run") / f"adapter_{step:08}.safetensors"
        expected[step] = Vae().decode(models.sample(pack.apply(pack.files.read(file), model)[0]))
    assert sorted(pictures) == sorted(expected)
    errors = {step: models.relative(pictures[step], expected[step]) for step in expected}
    assert {step for step, error in errors.items() if not error < 1e-4} == ({0} if begins_changed(method) else set())
    for one, other in ((0, 3), (0, 6), (3, 6)):
        assert models.relative(pictures[other], expected[one]) > 1e-3

    # Saved and read: nothing lost, and the record says what it is.
    path = pack.saving.write_native(whole.adapter, tmp_path / "adapter")
    adapter = pack.files.read(path)
    assert same(adapter, whole.adapter)
    assert adapter.metadata["method"] == method

    # Applied: nothing at strength 0, and more at 1 than at 0.5.
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

    # Read by ComfyUI's own Load LoRA, with this pack's class beside its own: the same weights.
    by_core, _ = comfy.sd.load_lora_for_models(make(), None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0)
    core = models.patched_weights(by_core)
    assert max(models.relative(core[key], after[key]) for key in before) < 1e-6

    # A PEFT folder, of the linear layers where PEFT has no other: PEFT merges it into the same weights, and it is read
    # here. The other methods have none.
    record = pack.methods.get(method)
    linear = {key.removesuffix("weight") for key in before if key.endswith(".weight") and before[key].ndim == 2}
    tensors = {key: value for key, value in adapter.items() if key.startswith(tuple(linear))}
    assert 0 < len(tensors) < len(adapter)
    if record.peft_convolutions:
        tensors = dict(adapter)
    peft_folder, for_peft = tmp_path / "peft", pack.adapters.Adapter(tensors, adapter.metadata)
    write_peft = pack.saving.write_peft
    if isinstance(record.peft, str):
        with pytest.raises(
            ValueError, match=f"cannot be written for PEFT: .* is of (the method {method}|another format)"
        ):
            write_peft(for_peft, peft_folder, make(), {})
        assert not peft_folder.exists()
    else:
        write_peft(for_peft, peft_folder, make(), {})
        wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(network), peft_folder)
        merged = models.weights(models.comfy_sd15(wrapped.merge_and_unload()))
        read_back = models.patched_weights(pack.apply(pack.files.read(peft_folder), make())[0])
        written = [
            key
            for key in before
            if (after[key] != before[key]).any() and (before[key].ndim == 2 or record.peft_convolutions)
        ]
        assert written
        for weights in (merged, read_back):
            assert max(models.relative(weights[key], after[key]) for key in written) < 1e-5

    # Exported: the same weights as a plain LoRA of full rank.
    lora, _ = pack.export(adapter, make())
    exported, _, _ = pack.apply(lora, make())
    one = models.patched_weights(exported)
    matrices = [key for key in before if before[key].ndim > 1]
    assert max(models.relative(one[key], after[key]) for key in matrices) < 1e-5
    assert any((one[key] != before[key]).any() for key in matrices)
