"""What a run writes for those who look at it: run.json and the previews; the adapter and its files stay as they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from ..measured import but_cost
from ..tools import header, same
from . import models
from .test_training import as_loaded
from .test_training_runs import Vae, names, run_of, shown, train


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run_of(folder) / "run.json").read_text())
    return record


def test_a_record_and_previews_change_nothing_else(pack: Any, tmp_path: Path) -> None:
    model = as_loaded(models.sd3)
    plain = train(pack, model, steps=4)
    seen: list[tuple[str, int]] = []

    def look(progress: Any) -> None:
        assert progress.folder == run_of(tmp_path / "run")
        record = record_of(tmp_path / "run")
        seen.append((record["state"], record["step"]))

    folders = [pack.checkpoints.RunFolder(tmp_path / name, 2) for name in ("run", "other")]
    result = train(pack, model, folder=folders[0], steps=4, shown=shown(pack, model, Vae()), on_step=look)
    train(pack, model, folder=folders[1], steps=4)
    assert same(result.adapter, plain.adapter)
    assert result.losses == plain.losses
    run, other = run_of(tmp_path / "run"), run_of(tmp_path / "other")
    assert result.folder == run
    assert run.name[-10:] == other.name[-10:]
    files = ["adapter_00000002.safetensors", "adapter_00000004.safetensors"]
    for name in files:
        assert but_cost(run / name) == but_cost(other / name)
    checkpoints = ["checkpoint_00000002.pt", "checkpoint_00000004.pt"]
    assert names(other) == [*files, *checkpoints, "log.jsonl"]
    previews = ["preview_00000000.jpg", "preview_00000002.jpg", "preview_00000004.jpg"]
    assert names(run) == [*files, *checkpoints, "log.jsonl", *previews]
    assert seen == [("running", 0)] * 4  # it is written at the start and at the end
    record = record_of(tmp_path / "run")
    assert (record["state"], record["step"], record["steps"], record["first_step"]) == ("finished", 4, 4, 0)
    assert (record["method"], record["base"], record["pictures"]) == ("deft", "SD3", 3)
    assert record["settings"]["learning_rate"] == 1e-2
    assert record["created"] <= record["ended"]
    with Image.open(run / previews[1]) as picture:
        assert picture.size == (16, 8)  # two pictures side by side
        written = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    expected = np.concatenate([item.numpy() for item in result.pictures[1][1]], axis=1) @ [0.299, 0.587, 0.114]
    assert np.abs(written - expected).mean() < 0.03  # what JPEG leaves of noise


def test_stopped_and_gone_on(pack: Any, tmp_path: Path) -> None:
    import comfy.model_management

    def interrupt(progress: Any) -> None:
        if progress.step == 5:
            comfy.model_management.interrupt_current_processing()

    model, history = as_loaded(models.sd3), pack.trainers.run.history
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 3)
    pictures = shown(pack, model, Vae())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(pack, model, folder=folder, steps=8, shown=pictures, on_step=interrupt)
    record = record_of(folder.path)
    assert (record["state"], record["step"]) == ("stopped", 5)
    run = run_of(folder.path)
    detail = history.detail(tmp_path, run)
    assert (detail["state"], detail["step"], detail["previews"]) == ("stopped", 5, [0, 2, 4])
    assert detail["checkpoints"] == [3, 5]
    (run / "checkpoint_00000005.pt").unlink()
    train(pack, model, folder=folder, steps=8)
    again = record_of(folder.path)
    assert (again["state"], again["step"], again["first_step"]) == ("finished", 8, 3)
    assert again["created"] == record["created"] < again["started"]
    assert history.detail(tmp_path, run)["previews"] == [0, 2]  # that of step 4 is not of this run


@pytest.mark.parametrize(("step", "every"), [(0, 2), (2, 2), (6, 2), (4, 100), (6, 100)])
def test_a_preview_that_was_interrupted_is_made_when_the_run_goes_on(
    pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, every: int
) -> None:
    """The preview is the first, the last or another one, its checkpoint written before or by the stop. Adapter and
    pictures are those of a run without an interruption, bit for bit.
    """
    import comfy.model_management

    class Interrupting(Vae):
        """Interrupts when the picture of a step is decoded."""

        decoded = 0

        def decode(self, latent: Tensor) -> Tensor:
            self.decoded += 1
            if self.decoded == step + 2:  # two pictures a preview, every second step: the second one of this step
                raise comfy.model_management.InterruptProcessingException
            return super().decode(latent)

    model, history = as_loaded(models.sd3), pack.trainers.run.history
    straight = train(pack, model, steps=6, ema=0.5, shown=shown(pack, model, Vae()))
    pictures = dict(straight.pictures)
    assert list(pictures) == [0, 2, 4, 6]
    folder = pack.checkpoints.RunFolder(tmp_path / "run", every)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(pack, model, folder=folder, steps=6, ema=0.5, shown=shown(pack, model, Interrupting()))
    before = list(range(0, step, 2))
    detail = history.detail(tmp_path, run_of(folder.path))
    assert (detail["state"], detail["step"], detail["previews"]) == ("stopped", step, before)
    again = train(pack, model, folder=folder, steps=6, ema=0.5, shown=shown(pack, model, Vae()))
    detail = history.detail(tmp_path, run_of(folder.path))
    assert (detail["state"], detail["step"], detail["previews"]) == ("finished", 6, [0, 2, 4, 6])
    assert [at for at, _ in again.pictures] == list(range(step, 7, 2))
    assert all(torch.equal(made, pictures[at]) for at, made in again.pictures)
    assert same(again.adapter, straight.adapter)
    assert again.losses == straight.losses
    once_more = train(pack, model, folder=folder, steps=6, ema=0.5, shown=shown(pack, model, Vae()))
    assert "not trained again" in once_more.report
    assert once_more.pictures == []


def test_previews_that_are_there_are_not_made_again(pack: Any, tmp_path: Path) -> None:
    """Where a run goes on, and where it was finished without previews or failed at the last one."""
    import comfy.model_management

    def interrupt(progress: Any) -> None:
        if progress.step == 2:
            comfy.model_management.interrupt_current_processing()

    class Failing(Vae):
        decoded = 0

        def decode(self, latent: Tensor) -> Tensor:
            self.decoded += 1
            if self.decoded > 2:
                raise ValueError("too large")
            return super().decode(latent)

    model = as_loaded(models.sd3)
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 100)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(pack, model, folder=folder, shown=shown(pack, model, Vae()), on_step=interrupt)
    again = train(pack, model, folder=folder, shown=shown(pack, model, Vae()))
    assert [step for step, _ in again.pictures] == [4]
    plain = pack.checkpoints.RunFolder(tmp_path / "plain", 100)
    train(pack, model, folder=plain)
    again = train(pack, model, folder=plain, shown=shown(pack, model, Vae()))
    assert again.pictures == []
    assert "no previews: they are only made during training" in again.report
    failed = pack.checkpoints.RunFolder(tmp_path / "failed", 100)
    with pytest.raises(ValueError, match="too large"):
        train(pack, model, folder=failed, shown=shown(pack, model, Failing(), every=4))
    again = train(pack, model, folder=failed, shown=shown(pack, model, Failing(), every=4))  # the adapter comes out
    assert same(again.adapter, train(pack, model).adapter)


def test_what_a_training_costs_is_kept(pack: Any, tmp_path: Path) -> None:
    """The log's lines, record, file and report have it; over a stop, too. Each number is checked against others'
    counts."""
    model = as_loaded(models.sd3)
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 4, keep=9)
    seen: list[tuple[float, int]] = []

    def stop(progress: Any) -> None:
        seen.append((progress.seconds, psutil.Process().memory_info().rss))
        if progress.step == 4 and len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pack, model, folder=folder, steps=7, on_step=stop)
    result = train(pack, model, folder=folder, steps=7, on_step=stop)
    run = run_of(folder.path)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [round(seconds, 4) for seconds, _ in seen]
    cost = result.adapter.cost
    assert cost.seconds_a_step == pytest.approx(sorted(seconds for seconds, _ in seen)[3], abs=1e-4)
    assert cost.seconds == pytest.approx(sum(seconds for seconds, _ in seen), abs=1e-3)
    assert cost.values == sum(value.numel() for key, value in result.adapter.items() if not key.endswith("alpha"))
    assert cost.peak_bytes == max(line["peak_bytes"] for line in lines)
    if model.load_device.type == "cpu":
        assert cost.memory == "process"
        assert cost.peak_bytes >= 0.9 * max(rss for _, rss in seen)  # the system counts some pages late
        assert cost.peak_bytes < psutil.virtual_memory().total
    else:
        assert cost.memory == "GPU"
    file = run / "adapter_00000007.safetensors"
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert cost.bytes == file.stat().st_size - start  # all behind the header is tensors
    assert record_of(folder.path)["cost"] == dataclasses.asdict(cost)
    assert json.loads(header(file)["training_cost"])["seconds_a_step"] == cost.seconds_a_step
    earlier = json.loads(header(run / "adapter_00000004.safetensors")["training_cost"])
    assert earlier["seconds"] == pytest.approx(sum(seconds for seconds, _ in seen[:4]), abs=1e-3)
    assert f"cost: {cost.seconds_a_step:.3g} s a step (median), peak memory " in result.report
    again = train(pack, model, folder=folder, steps=7, on_step=stop)
    assert len(seen) == 7  # not trained again
    assert again.adapter.cost == cost


def test_the_peak_is_of_the_training_alone(pack: Any) -> None:
    """What was there before, or is used for previews, is not in it."""
    peak = pack.trainers.run.meter.Peak(torch.device("cpu"))
    large = torch.ones(1 << 27)  # 512 MiB
    del large
    before = psutil.Process().memory_info().rss
    peak.start()
    assert peak.read() < before + (256 << 20)
    large = torch.ones(1 << 27)
    del large
    assert peak.read() > before + (256 << 20)
    peak.start()
    assert peak.read() < before + (256 << 20)


def test_failed(pack: Any, tmp_path: Path) -> None:
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 0)
    with pytest.raises(ValueError, match="no longer a number"):
        train(pack, as_loaded(models.sd3), folder=folder, steps=10, learning_rate=1e30, method="lora")
    record = record_of(folder.path)
    assert record["state"] == "failed"
    assert "no longer a number" in record["message"]


def test_a_disk_error_does_not_end_the_training(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack.checkpoints.safe, "write_files", full)
    model = as_loaded(models.sd3)
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 0)
    result = train(pack, model, folder=folder, shown=shown(pack, model, Vae()))
    for what in ("the record of the run", "the preview of step 0", "the preview of step 2"):
        assert f"WARNING: {what} could not be written" in result.report
