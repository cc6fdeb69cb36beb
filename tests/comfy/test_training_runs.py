"""What surrounds the steps: checkpoints and resume, failures, previews, text encoders, prior pictures, masks, sizes."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deft_pack.trainers.settings.optimizers import OPTIMIZERS

from ..tools import same
from . import killed_training, models
from .conftest import ROOT
from .test_training import as_loaded, traces


def settings(pack: Any, steps: int = 4, **others: Any) -> Any:
    return pack.settings.Settings.of(
        **({"method": "deft", "rank": 3, "learning_rate": 1e-2, "layers": "all linear"} | {"steps": steps} | others)
    )


def train(
    pack: Any,
    model: Any,
    material: Any = None,
    folder: Any = None,
    shown: Any = None,
    on_step: Callable[[Any], None] = lambda progress: None,
    on_start: Callable[[str], None] = lambda text: None,
    **chosen: Any,
) -> Any:
    """trainers.run.loop.train as a node calls it: in inference mode."""
    with torch.inference_mode():
        if material is None:
            material = pack.material.Material([models.latents(model, 3)], [models.conditioning()])
        return pack.loop.train(
            model, material, settings(pack, **chosen), on_step, folder=folder, shown=shown, on_start=on_start
        )


def run_of(folder: Path) -> Path:
    """The one run within a folder."""
    (run,) = folder.parent.glob(f"{folder.name}_*")
    return run


def names(folder: Path) -> list[str]:
    """What is in a run's folder besides its record, see test_run_record.py."""
    return sorted(path.name for path in folder.iterdir() if path.name != "run.json")


# -------------------------------------------------------------------------------------------------- checkpoints, resume


def test_killed_and_resumed_is_bit_for_bit_the_same(pack: Any, tmp_path: Path) -> None:
    """20 steps = 10 and SIGKILL at the 12th, then the rest; with everything that has a state."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.comfy.killed_training", str(folder), "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = run_of(folder)
    assert names(run) == [
        "adapter_00000005.safetensors",
        "adapter_00000010.safetensors",
        "checkpoint_00000005.pt",
        "checkpoint_00000010.pt",
        "log.jsonl",
        "run.lock",
    ]
    assert len((run / "log.jsonl").read_text().splitlines()) == 12
    seen: list[int] = []

    def whole(folder: Any = None, on_step: Callable[[Any], None] = lambda progress: None) -> Any:
        with torch.inference_mode():
            model = models.sd3()
            material = killed_training.material(pack.material, models, model)
            return pack.loop.train(model, material, killed_training.settings(pack.settings), on_step, folder=folder)

    resumed = whole(pack.checkpoints.RunFolder(folder, 5), lambda progress: seen.append(progress.step))
    straight = whole()
    assert seen == list(range(11, 21))
    assert f"resumed at step 10 from {run}" in resumed.report
    assert resumed.losses == straight.losses
    assert len(straight.losses) == 20
    assert same(resumed.adapter, straight.adapter)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert [line["loss"] for line in lines] == straight.losses
    assert all(line["rate"] > 0 or line["step"] == 1 for line in lines)
    assert names(run)[:4] == [
        "adapter_00000015.safetensors",
        "adapter_00000020.safetensors",
        "checkpoint_00000015.pt",
        "checkpoint_00000020.pt",
    ]
    written = pack.files.read(run / "adapter_00000020.safetensors")
    assert same(written, straight.adapter)
    again = whole(pack.checkpoints.RunFolder(folder, 5))  # it is done already
    assert again.losses == straight.losses
    assert same(again.adapter, straight.adapter)


def test_two_processes_do_not_train_into_one_folder(pack: Any, tmp_path: Path) -> None:
    """The second one says whom it would be in the way of, changes nothing, and runs when the first one is gone."""
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2)
    model = as_loaded(models.sd3)
    expected = train(pack, model, folder=folder)
    run = run_of(folder.path)
    for path in (*run.glob("adapter_00000004*"), *run.glob("checkpoint_00000004*")):
        path.unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    source = (
        "import fcntl, os; file = open('run.lock', 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        'file.write(\'{"host": "attic", "pid": 12}\'); file.flush(); print(flush=True); input()'
    )
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, cwd=run, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ValueError, match=rf"into {re.escape(str(run))} \(process 12 on attic\): wait"):
            train(pack, model, folder=folder)
        other.kill()
    left = {path.name: path.read_bytes() for path in run.iterdir()}
    assert left.pop("run.lock")
    assert left == before
    result = train(pack, model, folder=folder)
    assert "resumed at step" in result.report
    assert same(result.adapter, expected.adapter)
    assert not (run / "run.lock").exists()


def test_interrupted_and_resumed(pack: Any, tmp_path: Path) -> None:
    import comfy.model_management

    def interrupt(progress: Any) -> None:
        if progress.step == 3:
            comfy.model_management.interrupt_current_processing()

    model = as_loaded(models.sd3)
    before = traces(model)
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 100)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(pack, model, folder=folder, on_step=interrupt, steps=8)
    assert traces(model) == before
    assert "checkpoint_00000003.pt" in names(run_of(folder.path))
    result = train(pack, model, folder=folder, steps=8)
    assert "resumed at step 3" in result.report
    assert same(result.adapter, train(pack, model, steps=8).adapter)
    longer = train(pack, model, folder=folder, steps=11)  # more steps of a constant rate
    assert "resumed at step 8" in longer.report
    assert same(longer.adapter, train(pack, model, steps=11).adapter)
    anew = train(pack, model, folder=pack.checkpoints.RunFolder(folder.path, 100, resume=False), steps=8)
    assert "resumed" not in anew.report
    assert same(anew.adapter, result.adapter)


def test_other_settings_pictures_or_bases_do_not_meet(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 100)
    model = as_loaded(models.sd3)
    train(pack, model, folder=folder)
    train(pack, model, folder=folder, seed=1)
    train(pack, as_loaded(lambda: models.sd3(seed=1)), folder=folder)
    other = pack.material.Material([models.latents(model, 3, seed=8)], [models.conditioning()])
    train(pack, model, other, folder=folder)
    adapter = train(pack, model).adapter
    train(pack, pack.apply(adapter, model)[0], folder=folder)
    train(pack, pack.apply(adapter, model, strength_model=0.5)[0], folder=folder)
    train(pack, model, folder=folder, schedule="cosine")
    train(pack, model, folder=folder, schedule="cosine", steps=5)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_checkpoint_of_other_settings_is_an_error(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 100)
    model = as_loaded(models.sd3)
    train(pack, model, folder=folder)
    run = run_of(folder.path)
    train(pack, model, folder=folder, rank=4, seed=2)
    (other,) = set(tmp_path.iterdir()) - {run}
    (run / "checkpoint_00000004.pt").replace(other / "checkpoint_00000003.pt")
    for name in ("checkpoint_00000004.pt", "adapter_00000004.safetensors"):  # or the run would be finished
        (other / name).unlink()
    with pytest.raises(ValueError, match="was made with another rank, seed: restore it, choose another run name, or"):
        train(pack, model, folder=folder, rank=4, seed=2)


def test_starting_over_keeps_its_own_checkpoints_and_those_that_went_further(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2, keep=1)
    model = as_loaded(models.sd3)
    train(pack, model, folder=folder, steps=8)
    train(pack, model, folder=pack.checkpoints.RunFolder(folder.path, 2, keep=1, resume=False), steps=4)
    assert names(run_of(folder.path)) == [
        "adapter_00000004.safetensors",
        "adapter_00000008.safetensors",
        "checkpoint_00000004.pt",
        "checkpoint_00000008.pt",
        "log.jsonl",
    ]


def test_texts_are_part_of_the_data(pack: Any) -> None:
    one, other = (pack.batches.dataset_hash([], [], [text]) for text in ("a cat", "a dog"))
    assert one != other == pack.batches.dataset_hash([], [], ["a dog"])


def test_damaged_checkpoints_are_passed_over(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2, keep=3)
    model = as_loaded(models.sd3)
    expected = train(pack, model, folder=folder, steps=6)
    run = run_of(folder.path)
    (run / "checkpoint_00000006.pt").write_bytes((run / "checkpoint_00000006.pt").read_bytes()[:1000])
    torch.save({"format": 99}, run / "checkpoint_00000004.pt")
    (run / "adapter_00000006.safetensors").unlink()
    (run / "log.jsonl").write_text((run / "log.jsonl").read_text() + '{"step": 7, "lo')
    again = train(pack, model, folder=folder, steps=6)
    assert "resumed at step 2" in again.report
    assert same(again.adapter, expected.adapter)
    assert "checkpoint_00000006.pt cannot be read" in again.report
    assert "checkpoint_00000004.pt is not a checkpoint of this version" in again.report
    assert len((run / "log.jsonl").read_text().splitlines()) == 6


def test_a_run_whose_log_has_a_damaged_line_goes_on(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2)
    model = as_loaded(models.sd3)
    train(pack, model, folder=folder, steps=4)
    run = run_of(folder.path)
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join([lines[0], lines[1][:25], *lines[2:]]) + "\n")
    longer = train(pack, model, folder=folder, steps=6)
    assert "resumed at step 4" in longer.report
    assert longer.report.count("WARNING: log.jsonl: damaged line 2 is skipped") == 1
    assert len(longer.losses) == 6
    after = (run / "log.jsonl").read_text().splitlines()
    assert after[:3] == [lines[0], *lines[2:]]
    records = [json.loads(line) for line in after]
    assert [line["step"] for line in records] == [1, 3, 4, 5, 6]
    cost = longer.adapter.cost
    assert cost.seconds is None
    assert cost.peak_bytes == max(line["peak_bytes"] for line in records)
    assert cost.seconds_a_step == pytest.approx(sorted(line["seconds"] for line in records)[2], abs=1e-4)


class Trap:
    """What a pickle of an attacker does."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/deft-trap",)


def test_a_checkpoint_cannot_run_code(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2)
    model = as_loaded(models.sd3)
    train(pack, model, folder=folder)
    run = run_of(folder.path)
    for file in run.glob("*.pt"):
        torch.save({"format": 1, "trap": Trap()}, file)
        file.with_name(file.name.replace("checkpoint", "adapter")).with_suffix(".safetensors").unlink()
    assert "cannot be read" in train(pack, model, folder=folder).report
    assert not os.path.exists("/tmp/deft-trap")


def test_a_full_disk_does_not_end_the_training(pack: Any, tmp_path: Path) -> None:
    """The limit on a file's size stands for it: writing fails in the same way."""
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2)
    model = as_loaded(models.sd3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        result = train(pack, model, folder=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "WARNING: the checkpoint of step 2 could not be written" in result.report
    assert "free some space" in result.report
    assert names(run_of(folder.path)) == ["log.jsonl"]
    assert same(result.adapter, train(pack, model).adapter)


def test_what_the_system_refuses_a_training(pack: Any, tmp_path: Path) -> None:
    """The advice is that for the reason, whatever space there is."""
    model = as_loaded(models.sd3)
    (tmp_path / "file").write_bytes(b"")
    report = train(pack, model, folder=pack.checkpoints.RunFolder(tmp_path / "file" / "run", 2)).report
    advice = r"\(.+\): a file has the name of the folder, choose another"
    assert re.search(rf"WARNING: the checkpoint of step 2 could not be written to \S+ {advice}", report)
    assert "free some space" not in report
    with pytest.raises(
        OSError, match=r"aaa_\w+/\S+ could not be written \(File name too long\): choose a shorter name"
    ):
        train(pack, model, folder=pack.checkpoints.RunFolder(tmp_path / ("a" * 300), 2))


def test_a_loss_that_explodes_keeps_the_last_good_checkpoint(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 1)
    model = as_loaded(models.sd3)
    before = traces(model)
    with pytest.raises(ValueError, match="no longer a number at step"):
        train(pack, model, folder=folder, steps=10, learning_rate=1e30, method="lora")
    assert traces(model) == before
    for file in run_of(folder.path).glob("*.pt"):
        assert all(bool(torch.isfinite(p).all()) for p in torch.load(file, weights_only=True)["parameters"])
    assert train(pack, model).losses


def test_too_little_memory_is_told_and_the_next_run_works(pack: Any, tmp_path: Path) -> None:
    import comfy.model_management

    model = as_loaded(models.sd3)
    before = traces(model)
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 100)

    def allocate(progress: Any) -> None:
        if progress.step == 2:
            torch.empty(2**55)  # the allocator's own error

    advice = "switch gradient checkpointing on, or lower the batch size .* use precision bf16, .*smaller pictures"
    with pytest.raises(ValueError, match=f"not enough memory .*: {advice}. Everything was freed"):
        train(pack, model, folder=folder, on_step=allocate, batch_size=2, precision="fp32")
    assert not comfy.model_management.current_loaded_models
    assert traces(model) == before
    assert "resumed at step 2" in train(pack, model, folder=folder, batch_size=2, precision="fp32").report


# ------------------------------------------------------------------------------------------------------------ material


def test_several_sizes(pack: Any) -> None:
    model = as_loaded(models.sd3)
    latents = [models.latents(model, 3), models.latents(model, 2, size=12, seed=4)]
    captions = [models.conditioning(seed) for seed in (20, 30, 40, 50, 60)]
    result = train(pack, model, pack.material.Material(latents, captions), steps=6, batch_size=2)
    assert "5 pictures, 2 sizes" in result.report
    assert len(result.losses) == 6


def test_order(pack: Any) -> None:
    shapes = [(1, 8)] * 5 + [(1, 9)] * 2
    order = pack.batches.Order(shapes, 2, models.generator(3))
    seen: list[int] = []
    for _ in range(4):  # two full batches of one size, one of the other, and what is left
        batch = order.next()
        assert len({shapes[place] for place in batch}) == 1
        assert len(batch) <= 2
        seen += batch
    assert sorted(seen) == list(range(7))
    assert len(order.next()) == 2


def test_a_mask_comes_with_the_latent(pack: Any) -> None:
    model = as_loaded(models.sd3)

    def losses(**mask: Tensor) -> list[float]:
        material = pack.material.Material([models.latents(model, 1) | mask], [models.conditioning()])
        result = train(pack, model, material, steps=2)
        assert ("1 with a mask" in result.report) == bool(mask)
        return result.losses

    half = torch.zeros(1, 64, 64)
    half[..., :32] = 1
    assert losses(noise_mask=torch.ones(1, 64, 64)) == pytest.approx(losses(), rel=1e-5)
    assert losses(noise_mask=half)[0] != pytest.approx(losses()[0], rel=1e-3)
    with pytest.raises(ValueError, match="The mask of picture 1 is empty"):
        losses(noise_mask=torch.zeros(1, 64, 64))


def test_prior_pictures_have_their_weight(pack: Any) -> None:
    model = as_loaded(models.sd3)
    own = ([models.latents(model, 2)], [models.conditioning()])
    prior = ([models.latents(model, 3, seed=9)], [models.conditioning(70)])
    both = pack.material.Material(*own, *prior)
    without, half, whole = (train(pack, model, both, steps=1, prior_weight=weight) for weight in (0.0, 0.5, 1.0))
    assert half.losses[0] - without.losses[0] == pytest.approx(0.5 * (whole.losses[0] - without.losses[0]), rel=1e-4)
    assert whole.losses[0] > without.losses[0] == train(pack, model, pack.material.Material(*own), steps=1).losses[0]
    assert "2 pictures, 3 prior pictures" in whole.report
    for half in ({"prior_latents": prior[0]}, {"prior_captions": prior[1]}):
        with pytest.raises(ValueError, match="Prior preservation needs pictures and captions: connect prior"):
            train(pack, model, pack.material.Material(*own, **half))
    with pytest.raises(ValueError, match="There are 2 captions for 3 prior pictures"):
        train(pack, model, pack.material.Material(*own, prior[0], [models.conditioning(1), models.conditioning(2)]))


def test_dropped_captions_are_the_empty_one(pack: Any) -> None:
    model = as_loaded(models.sd3)
    latents = [models.latents(model, 2)]
    caption, empty = [models.conditioning(20)], [models.conditioning(90)]
    all_dropped = train(pack, model, pack.material.Material(latents, caption, empty=empty), caption_dropout=1.0)
    assert (
        all_dropped.losses
        == train(pack, model, pack.material.Material(latents, empty, empty=empty), caption_dropout=1.0).losses
    )
    with pytest.raises(ValueError, match="Caption dropout needs the empty caption"):
        train(pack, model, pack.material.Material(latents, caption), caption_dropout=0.1)


def test_one_picture(pack: Any) -> None:
    model = as_loaded(models.sd3)
    material = pack.material.Material([models.latents(model, 1)], [models.conditioning()])
    assert "\n1 picture\n" in train(pack, model, material, batch_size=4).report


# ------------------------------------------------------------------------------------------------------------ settings


def test_accumulation_is_a_larger_batch(pack: Any) -> None:
    """The pictures and the noise are the same: the mean gradient of two batches of one."""
    model = as_loaded(models.sd3)
    with torch.inference_mode(False), torch.enable_grad():
        results = []
        for accumulation in (1, 2):
            chosen = settings(pack, accumulation=accumulation, max_grad_norm=0.0)
            material = pack.material.Material([models.latents(model, 1)], [models.conditioning()])
            trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
            with trainer.prepared():
                losses = [trainer.take_step()[0]] if accumulation == 2 else []
                gradients = [[p.grad.clone() for p in trainer.parameters]] if accumulation == 2 else []
                while len(losses) < 2 and accumulation == 1:
                    losses.append(trainer.gradients())
                    gradients.append([p.grad.clone() for p in trainer.parameters])
            results.append((sum(losses) / len(losses), [sum(parts) / len(parts) for parts in zip(*gradients)]))
    (first, mean), (second, own) = results
    assert second == pytest.approx(first, rel=1e-5)
    assert all(models.relative(a, b) < 1e-4 or float(b.norm()) < 1e-7 for a, b in zip(own, mean))


def test_rates_of_p_and_r(pack: Any) -> None:
    model = as_loaded(models.sd3)
    frozen = train(pack, model, p_rate=0.0, steps=2).adapter
    moved = train(pack, model, p_rate=1.0, steps=2).adapter
    starts = train(pack, model, p_rate=0.0, steps=1).adapter
    for key in frozen:
        if key.endswith("deft_Q"):
            assert torch.equal(frozen[key], starts[key])
            assert not torch.equal(frozen[key], moved[key])
        elif key.endswith("deft_R"):
            assert not torch.equal(frozen[key], starts[key])


def test_ranks_by_pattern_blocks_and_cap(pack: Any) -> None:
    model = as_loaded(models.unet)
    adapter = train(
        pack,
        model,
        steps=1,
        ranks="attn2 = 2\nattn1\\.to_q = 5",
        exclude="ff\\.",
        rank=3,
        blocks="input_blocks.0-2, middle_block",
        layers="attention and feed-forward",
    ).adapter
    layers = pack.adapters.layers(adapter)
    assert {name.split(".")[1] for name in layers} == {"input_blocks", "middle_block"}
    assert not any(".ff." in name for name in layers)
    for name, tensors in layers.items():
        expected = 2 if "attn2" in name else 5 if name.endswith("attn1.to_q") else 3
        assert tensors["deft_Q"].shape[1] == expected, name
    capped = pack.adapters.layers(train(pack, model, steps=1, rank=30, rank_cap=8.0, method="para").adapter)
    assert {tensors["deft_Q"].shape[1] for tensors in capped.values()} == {
        min(30, max(1, int(len(tensors["deft_Q"]) / 8))) for tensors in capped.values()
    }
    assert pack.targets.rank_of("a", 30, [], 16) == 16
    for text, error in (("attn2", "rank rule 'attn2' is not understood"), ("( = 2", "is not a regular expression")):
        with pytest.raises(ValueError, match=error):
            train(pack, model, ranks=text)
    with pytest.raises(ValueError, match="The block 'a-b' is not understood"):
        train(pack, model, blocks="a-b")
    with pytest.raises(ValueError, match="block range 'input_blocks.5-2' is empty"):
        train(pack, model, blocks="input_blocks.5-2")
    with pytest.raises(ValueError, match="No layer .* and blocks 'nowhere'.*its blocks are input_blocks, "):
        train(pack, model, blocks="nowhere")


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_optimizer_resumes(pack: Any, tmp_path: Path, optimizer: str) -> None:
    model = as_loaded(models.sd3)
    chosen = {"optimizer": optimizer, "learning_rate": 1.0 if optimizer == "Prodigy" else 1e-3, "steps": 6}
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 3, keep=9)
    straight = train(pack, model, **chosen)
    train(pack, model, folder=folder, **chosen)
    for name in ("checkpoint_00000006.pt", "adapter_00000006.safetensors"):
        (run_of(folder.path) / name).unlink()
    resumed = train(pack, model, folder=folder, **chosen)
    assert "resumed at step 3" in resumed.report
    assert same(resumed.adapter, straight.adapter)


def test_bf16_adapters(pack: Any) -> None:
    model = as_loaded(models.sd3)
    exact, half = train(pack, model, steps=6), train(pack, model, steps=6, adapter_precision="bf16")
    assert half.losses == pytest.approx(exact.losses, rel=0.05)
    assert half.losses != exact.losses
    assert all(value.dtype == torch.float32 for value in half.adapter.values())


def test_the_moving_average_is_the_result(pack: Any) -> None:
    model = as_loaded(models.sd3)
    plain, averaged = train(pack, model, steps=8), train(pack, model, steps=8, ema=0.99)
    assert plain.losses == averaged.losses
    assert not same(plain.adapter, averaged.adapter)


def test_settings_out_of_range(pack: Any) -> None:
    model = as_loaded(models.sd3)
    for name, value, text in (
        ("optimizer", "SGD", "Unknown optimizer 'SGD': choose one of AdamW"),
        ("weighting", "x", "Unknown weighting 'x'"),
        ("caption_dropout", 1.5, "caption_dropout must be from 0 to 1, not 1.5"),
        ("steps", 0, "steps must be from 1"),
        ("adapter_precision", "fp8", "Unknown adapter precision"),
        ("ema", 1.0, "The setting ema must be"),
    ):
        with pytest.raises(ValueError, match=text):
            train(pack, model, **{name: value})


# --------------------------------------------------------------------------------------------- attention, memory, notes


def test_pytorch_s_attention_for_the_time_of_a_training(pack: Any) -> None:
    import comfy.ldm.modules.attention as attention
    import comfy.ldm.modules.diffusionmodules.mmdit as mmdit

    chosen, seen = attention.optimized_attention, []
    assert chosen is not attention.attention_pytorch  # on a CPU
    train(
        pack,
        as_loaded(models.sd3),
        on_step=lambda progress: seen.append((mmdit.optimized_attention, attention.optimized_attention_masked)),
        steps=1,
    )
    assert seen == [(attention.attention_pytorch, attention.attention_pytorch)]
    assert mmdit.optimized_attention is attention.optimized_attention is chosen
    assert pack.attention.without_override({"optimized_attention_override": 1, "a": 2}) == {"a": 2}


@pytest.mark.parametrize("make", [lambda: models.sd3(depth=3), models.unet], ids=["sd3", "unet"])
def test_the_estimate_is_near_what_is_kept(pack: Any, make: Any) -> None:
    """Compared with the bytes that autograd keeps, each storage counted once, without the network's own weights."""
    model = as_loaded(make)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.model.parameters()}
    sizes: dict[bool, tuple[Any, int]] = {}
    for checkpointing in (False, True):
        chosen = settings(pack, batch_size=2, gradient_checkpointing=checkpointing, layers="attention")
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.inference_mode(False), torch.enable_grad():
            material = pack.material.Material([models.latents(model, 2)], [models.conditioning()])
            trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
            estimated = pack.trainers.run.needs.needs_of(trainer).of(chosen.mode)
            with trainer.prepared(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                trainer.refresh()
                trainer.backward()
        values = sum(parameter.numel() for parameter in trainer.parameters)
        assert estimated.adapter == 20 * values  # values, gradients, factors; two moments
        sizes[checkpointing] = estimated.activations, sum(kept.values())
    assert 0.5 < sizes[False][0] / sizes[False][1] < 2, sizes
    # With checkpointing the hooks see what is kept between the blocks, and not the block that is recomputed.
    assert sizes[True][1] < sizes[True][0] < sizes[False][0], sizes


def test_what_is_said_before_the_first_step(pack: Any) -> None:
    messages: list[str] = []
    adapter = train(pack, as_loaded(models.sd3), on_start=messages.append, steps=1).adapter
    assert f"deft rank 3: {len(pack.adapters.layers(adapter))} layers, " in messages[0]
    assert "trained values; memory estimate: model" in messages[0]


def test_training_on_top_of_an_adapter_is_said(pack: Any) -> None:
    model = as_loaded(models.sd3)
    adapter = train(pack, model).adapter
    assert "trained on top of " in train(pack, pack.apply(adapter, model)[0]).report
    assert "on top" not in train(pack, model).report


def test_metadata_says_how_it_was_made(pack: Any) -> None:
    model = as_loaded(models.sd3)
    result = train(pack, model, schedule="cosine", steps=3)
    training = json.loads(result.adapter.metadata["training"])
    assert training["schedule"] == "cosine"
    assert training["steps"] == 3
    assert training["seed"] == 0
    assert training["final_loss"] == result.losses[-1]
    assert len(training["dataset_hash"]) == 64
    assert set(training["versions"]) == {"pack", "torch", "python"}
    assert result.adapter.metadata["base_hash"]
    assert training["learning_rate"] == 1e-2
    assert training["optimizer"] == "AdamW"
    assert training["pictures"] == 3


# ------------------------------------------------------------------------------------------------------------- previews


def shown(pack: Any, model: Any, vae: Any, every: int = 2) -> Any:
    positive = [*models.conditioning(20), *models.conditioning(30)]
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    return pack.previews.Previews(every, vae, positive, models.conditioning(40), latent, 2, 3.0, "euler", "simple", 7)


class Vae:
    """The first three channels: what is tested is the sampling."""

    def decode(self, latent: Tensor) -> Tensor:
        return latent[:, :3].movedim(1, -1).sigmoid()


def test_previews_change_nothing_but_time(pack: Any) -> None:
    model = as_loaded(models.sd3)
    before, state = traces(model), torch.get_rng_state()
    plain = train(pack, model, steps=5, ema=0.5)
    seen: list[Any] = []
    result = train(pack, model, steps=5, ema=0.5, shown=shown(pack, model, Vae()), on_step=seen.append)
    assert result.losses == plain.losses
    assert same(result.adapter, plain.adapter)
    assert [step for step, _ in result.pictures] == [0, 2, 4]
    assert [p.pictures is not None for p in seen] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert result.pictures[0][1].shape == (2, 8, 8, 3)
    assert not torch.equal(result.pictures[0][1], result.pictures[1][1])
    assert traces(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert train(pack, model, steps=1, shown=shown(pack, model, Vae())).pictures == []  # none comes later


def test_a_preview_is_what_the_adapter_makes(pack: Any) -> None:
    """The picture of the last step, against ComfyUI's sampling of the model with the finished adapter."""
    model = as_loaded(models.sd3)
    result = train(pack, model, steps=2, shown=shown(pack, model, Vae()))
    patched = pack.apply(result.adapter, model)[0]
    with torch.inference_mode():
        expected = pack.previews.sample(patched, shown(pack, model, Vae()))
        base = pack.previews.sample(model, shown(pack, model, Vae()))
    assert models.relative(result.pictures[0][1], base) < 1e-4  # step 0: of the model before the training
    assert models.relative(result.pictures[1][1], expected) < 1e-4 < 1e-3 < models.relative(base, expected)


# -------------------------------------------------------------------------------------------------------- text encoders


TEXT_METHODS = [("deft", "all linear"), ("svdiff", "everything"), ("dreambooth", "everything")]


@pytest.mark.parametrize(("method", "layers"), TEXT_METHODS)
def test_text_encoders_are_trained_with_the_model(pack: Any, comfyui_session: Any, method: str, layers: str) -> None:
    model = as_loaded(models.sd3)
    with torch.inference_mode():
        clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
        words = ["a sks (red:1.2) cat", "a sks dog on a hill"]
        width = clip.encode_from_tokens(clip.tokenize("a")).shape[-1]
        before = clip.encode_from_tokens(clip.tokenize(words[0])).clone()
    # the small SD3 takes another width: project the captions by hand
    project = models.random(width, models.TOKEN_WIDTH, seed=3) / math.sqrt(width)
    stage, own = clip.cond_stage_model, clip.cond_stage_model.encode_token_weights

    def projected(tokens: Any) -> tuple:
        cond, *_ = own(tokens)
        return cond @ project, (cond @ project)[:, 0, : models.POOLED_WIDTH]

    stage.encode_token_weights = projected
    try:
        with torch.inference_mode():
            captions = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in words]
        material = pack.material.Material([models.latents(model, 2)], captions, clip=clip, words=words)
        seen: list[str] = []
        chosen = {"steps": 40, "batch_size": 2, "method": method, "layers": layers, "learning_rate": 3e-3}
        result = train(pack, model, material, on_start=seen.append, text_rate=0.5, **chosen)
        alone = train(pack, model, pack.material.Material([models.latents(model, 2)], captions), **chosen)
        with pytest.raises(ValueError, match="connect the captions as text: there are 1 texts for 2 encoded captions"):
            train(pack, model, pack.material.Material([models.latents(model, 2)], captions, clip=clip, words=words[:1]))
    finally:
        del stage.encode_token_weights
    assert result.losses[0] == pytest.approx(alone.losses[0], rel=1e-4)  # it starts as the same captions
    text = {name: value for name, value in result.adapter.items() if name.startswith("text_encoders.")}
    assert text
    assert "of text encoders" in seen[0]
    assert any("embedding" in name for name in text) == (method == "svdiff")
    assert any("norm" in name for name in text) == (layers == "everything")
    _, patched, report = pack.apply(result.adapter, model, clip)
    assert not report.unmatched
    with torch.inference_mode():
        after = patched.encode_from_tokens(patched.tokenize(words[0])).clone()
        assert models.relative(after, before) > 1e-3
        assert torch.equal(clip.encode_from_tokens(clip.tokenize(words[0])), before)


@pytest.mark.parametrize(("method", "layers"), TEXT_METHODS)
def test_gradients_of_text_encoders(pack: Any, comfyui_session: Any, method: str, layers: str) -> None:
    """Compared with finite differences of the loss along the gradient."""
    model = as_loaded(models.sd3)
    clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
    width = clip.encode_from_tokens(clip.tokenize("a")).shape[-1]
    project = models.random(width, models.TOKEN_WIDTH, seed=3) / math.sqrt(width)
    stage, own = clip.cond_stage_model, clip.cond_stage_model.encode_token_weights
    stage.encode_token_weights = lambda tokens: (
        own(tokens)[0] @ project,
        (own(tokens)[0] @ project)[:, 0, : models.POOLED_WIDTH],
    )
    try:
        with torch.inference_mode(False), torch.enable_grad():
            chosen = settings(pack, method=method, layers=layers, seed=3)
            captions = clip.encode_from_tokens_scheduled(clip.tokenize("a sks cat"))
            material = pack.material.Material([models.latents(model, 1)], [captions], clip=clip, words=["a sks cat"])
            trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
            parameters = [p for layer in trainer.text_layers.values() for p in layer.params.values()]

            def loss(backward: bool) -> float:
                trainer.generator.manual_seed(11)
                trainer.order.waiting = []
                return trainer.gradients()

            with trainer.prepared():
                loss(True)
                parameters = [p for p in parameters if p.grad is not None]  # the projection is not used here
                gradients = [p.grad.clone() for p in parameters]
                length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
                step = 2e-2 / length
                values = []
                for sign in (1, -1):
                    with torch.no_grad():
                        for parameter, gradient in zip(parameters, gradients):
                            parameter.add_(sign * step * gradient)
                    values.append(loss(False))
                    with torch.no_grad():
                        for parameter, gradient in zip(parameters, gradients):
                            parameter.sub_(sign * step * gradient)
    finally:
        del stage.encode_token_weights
    assert length > 1e-4
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(length**2, rel=0.05)
