"""A run that was finished before is not trained again: after a restart, in a loop, by its folder or its name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tools import header, same
from . import killed_training, models
from .conftest import ROOT
from .test_adapter_nodes import METHODS, Prompt, applied, node, sampling, settings, trainer, training_prompt
from .test_named_adapters import FILE, NAME, own_files, own_folder  # noqa: F401 (a fixture)
from .test_training_nodes import previews

AGAIN = "finished before, not trained again: taken from "


@pytest.fixture
def steps(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps that trainings take."""
    kind, taken = comfyui.module("trainers.run.trainer").Trainer, list[int]()
    own = kind.take_step

    def take_step(self: Any) -> Any:
        taken.append(self.step + 1)
        return own(self)

    monkeypatch.setattr(kind, "take_step", take_step)
    yield taken


def prompt_of(folder: str, kind: str = "deft", kept: dict[str, Any] | None = None, **changed: Any) -> Prompt:
    """A training whose folders lie in one of the test's own; `kept` are other values of Training Settings."""
    prompt = training_prompt(kind, **changed)
    values = {"run_name": f"tests/{folder}/run", "checkpoint_every": 1, "keep": 9, "resume": True}
    return prompt | {"settings": settings(**(values | (kept or {})))}


def folder_of(comfyui: Any, folder: str) -> Path:
    """The one run's folder."""
    (path,) = (comfyui.base / "output" / "tests" / folder).iterdir()
    return Path(path)


@pytest.mark.parametrize("kind", METHODS)
def test_all_outputs_are_those_of_the_training(comfyui: Any, steps: list[int], kind: str) -> None:
    prompt = prompt_of(f"again_{kind}", kind)
    first = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    comfyui.reset()
    second = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    file = folder_of(comfyui, f"again_{kind}") / "adapter_00000003.safetensors"
    report = second.text("train").splitlines()
    assert report[0] == f"{AGAIN}{file}"
    assert report[1].partition(",")[0] == first.text("train").partition(",")[0]  # method, rank, layers
    assert [line for line in report if line.startswith("loss ")][0] in first.text("train").splitlines()
    assert same(second.output("train"), first.output("train"))
    assert second.output("train").metadata == first.output("train").metadata
    assert second.output("train", 1) == first.output("train", 1)
    assert torch.equal(second.output("train", 3), first.output("train", 3))
    took = [json.loads(line)["seconds"] for line in (file.parent / "log.jsonl").read_text().splitlines()]
    assert second.output("train").training_seconds == pytest.approx(sum(took))


def test_after_a_restart(pack: Any, tmp_path: Path) -> None:
    """Another process has trained it."""
    command = [sys.executable, "-m", "tests.comfy.killed_training", str(tmp_path / "run"), "-1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: list[Any] = []

    def whole(**options: Any) -> Any:
        with torch.inference_mode():
            model = models.sd3()
            material = killed_training.material(pack.material, models, model)
            return pack.loop.train(model, material, killed_training.settings(pack.settings), seen.append, **options)

    again = whole(folder=pack.checkpoints.RunFolder(tmp_path / "run", 5))
    assert seen == []
    assert again.report.startswith(AGAIN)
    straight = whole()
    assert len(seen) == killed_training.STEPS
    assert same(again.adapter, straight.adapter)
    assert again.losses == straight.losses
    assert again.mark == straight.mark


def test_in_a_loop(comfyui: Any, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start Loop of newer cores does it so (comfy_extras/nodes_loop.py): each pass has copies of the body's nodes under
    ids of their own, shown at the original; what they take from Start Loop comes from a node of the pass, and that is
    never taken from the cache. Other passes wait for what the pass before has made."""
    from comfy_execution.graph_utils import GraphBuilder, is_link
    from protocol import BinaryEventTypes

    class Passing:
        """What Start Loop gives in one pass: here the same number in each."""

        RETURN_TYPES, FUNCTION, CATEGORY = ("INT",), "give", "tests"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"index": ("INT",)}, "optional": {"after": ("LORA_MODEL",)}}

        @classmethod
        def IS_CHANGED(cls, **_: Any) -> float:
            return float("nan")

        def give(self, index: int, after: Any = None) -> tuple[int]:
            return (training_prompt()["train"]["inputs"]["batch_size"],)

    class Start:
        """Three passes of the nodes between it and the node "train"."""

        RETURN_TYPES, FUNCTION, CATEGORY = ("LORA_MODEL", "STRING"), "expand", "tests"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        @classmethod
        def IS_CHANGED(cls, **_: Any) -> float:
            return float("nan")

        def expand(self) -> dict[str, Any]:
            graph, before = GraphBuilder(), {}
            for index in range(3):
                opener = graph.node("TestPassing", f"iteration_{index}", index=index, **before)
                copies = {}
                for name in ("settings", "train"):
                    copies[name] = graph.node(prompt[name]["class_type"], f"{index}_{name}")
                    copies[name].set_override_display_id(name)
                for name, copy in copies.items():
                    for key, value in prompt[name]["inputs"].items():
                        if is_link(value) and value[0] in copies:
                            value = copies[value[0]].out(value[1])
                        copy.set_input(key, value)
                copies["train"].set_input("batch_size", opener.out(0))
                before = {"after": copies["train"].out(0)}
            trained = copies["train"]
            return {"result": (trained.out(0), trained.out(2)), "expand": graph.finalize()}

    for kind in (Passing, Start):
        monkeypatch.setitem(comfyui.nodes.NODE_CLASS_MAPPINGS, f"Test{kind.__name__}", kind)
    prompt = prompt_of("loop")
    prompt["loop"] = node("TestStart")
    run = comfyui.run(prompt, want=["loop"])
    assert steps == [1, 2, 3]
    file = folder_of(comfyui, "loop") / "adapter_00000003.safetensors"
    assert run.output("loop", 1).startswith(f"{AGAIN}{file}\n")
    # The page knows the node of the body alone: the texts of all passes are at it, and so is the curve.
    texts = [data for event, data in run.messages if event == BinaryEventTypes.TEXT]
    assert {text[4 : 4 + int.from_bytes(text[:4], "big")] for text in texts} == {b"train"}
    assert b"".join(texts).count(AGAIN.encode()) == 2
    assert {data["node"] for event, data in run.messages if event == "deft.training"} == {"train"}
    assert {data["display_node"] for event, data in run.messages if event == "executed"} >= {"train"}
    # The whole prompt again: Start Loop is never taken from the cache.
    assert comfyui.run(prompt, want=["loop"]).output("loop", 1).startswith(AGAIN)
    assert steps == [1, 2, 3]
    assert same(run.output("loop"), comfyui.run(training_prompt(), want=["train"]).output("train"))


def test_by_its_name(comfyui: Any, loras: Path, steps: list[int]) -> None:
    """The file of the name is taken where there are no checkpoints, with the log's losses while there are any."""
    prompt = prompt_of("by_name", kept={"name": NAME, "checkpoint_every": 0})
    first = comfyui.run(prompt, want=["train"])
    written = (loras / FILE).stat().st_mtime_ns
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    assert again.text("train").splitlines()[0] == f"{AGAIN}{loras / FILE}"
    assert again.text("train").splitlines()[-1] == f"it is in {loras / FILE}"
    assert (loras / FILE).stat().st_mtime_ns == written
    assert same(again.output("train"), first.output("train"))
    assert again.output("train", 1) == first.output("train", 1)
    (folder_of(comfyui, "by_name") / "log.jsonl").unlink()
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    assert again.output("train", 1)["loss"] == first.output("train", 1)["loss"][-1:]
    assert "at the last step; its log no longer exists" in again.text("train")
    assert again.output("train").training_seconds is None
    assert "training_run" not in again.output("train").metadata


def test_a_name_that_is_given_afterwards(comfyui: Any, loras: Path, steps: list[int]) -> None:
    first = comfyui.run(prompt_of("afterwards"), want=["train"]).output("train")
    run = comfyui.run(prompt_of("afterwards", kept={"name": NAME}), want=["train"])
    assert steps == [1, 2, 3]
    assert run.text("train").splitlines()[-1] == f"written to {loras / FILE}"
    assert own_files(loras) == [FILE]
    from safetensors.torch import load_file

    assert same(load_file(loras / FILE), first)
    assert header(loras / FILE)["training_run"] == folder_of(comfyui, "afterwards").name.removeprefix("run_")


def test_what_is_another_run_trains(comfyui: Any, loras: Path, steps: list[int]) -> None:
    kept = {"name": NAME}
    comfyui.run(prompt_of("other", kept=kept), want=["train"])
    steps.clear()
    assert AGAIN not in comfyui.run(prompt_of("other", seed=5), want=["train"]).text("train")
    assert steps == [1, 2, 3]
    steps.clear()
    anew = comfyui.run(prompt_of("other", kept=kept | {"resume": False}), want=["train"])
    assert AGAIN not in anew.text("train")
    assert steps == [1, 2, 3]
    assert anew.text("train").splitlines()[-1] == f"written to {loras / FILE}"
    steps.clear()
    longer = comfyui.run(prompt_of("other", kept=kept, steps=5), want=["train"])
    assert "resumed at step 3" in longer.text("train")
    assert steps == [4, 5]
    steps.clear()
    # Fewer steps of a constant rate: the adapter of that step, which takes the place of the longer run's.
    shorter = comfyui.run(prompt_of("other", kept=kept, steps=2), want=["train"])
    assert steps == []
    assert shorter.text("train").splitlines()[0].endswith("adapter_00000002.safetensors")
    assert shorter.text("train").splitlines()[-1] == f"written to {loras / FILE}"
    assert len(shorter.output("train", 1)["loss"]) == 2
    assert same(shorter.output("train"), comfyui.run(training_prompt(steps=2), want=["train"]).output("train"))


def test_a_damaged_file_is_passed_over(comfyui: Any, steps: list[int]) -> None:
    """The checkpoint beside it has everything."""
    prompt = prompt_of("damaged")
    first = comfyui.run(prompt, want=["train"])
    file = folder_of(comfyui, "damaged") / "adapter_00000003.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    assert f"WARNING: {file.name} cannot be read and was skipped" in again.text("train")
    assert f"{AGAIN}{file.parent}" in again.text("train").splitlines()
    assert same(again.output("train"), first.output("train"))
    assert again.output("train", 1) == first.output("train", 1)
    assert again.output("train").training_seconds is None


def test_a_log_that_is_cut_off(comfyui: Any, steps: list[int]) -> None:
    """The checkpoint of the last step has all losses, which the adapter's file has not."""
    prompt = prompt_of("cut")
    first = comfyui.run(prompt, want=["train"])
    log = folder_of(comfyui, "cut") / "log.jsonl"
    log.write_text(log.read_text()[:-40])
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    assert f"{AGAIN}{log.parent}" in again.text("train").splitlines()
    assert again.output("train", 1) == first.output("train", 1)
    assert same(again.output("train"), first.output("train"))


def damage(log: Path, number: int) -> list[str]:
    """Cut a line of a log, and leave its end; the lines that stay."""
    lines = log.read_text().splitlines()
    cut = lines.pop(number - 1)
    log.write_text("".join(f"{line}\n" for line in [*lines[: number - 1], cut[:20], *lines[number - 1 :]]))
    return lines


def test_a_log_with_a_damaged_line(comfyui: Any, steps: list[int]) -> None:
    """The checkpoint of the last step has all losses; the log keeps its other lines."""
    prompt = prompt_of("damaged_line")
    first = comfyui.run(prompt, want=["train"])
    log = folder_of(comfyui, "damaged_line") / "log.jsonl"
    kept = damage(log, 2)
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    assert again.text("train").count("WARNING: log.jsonl: damaged line 2 is skipped") == 1
    assert again.output("train", 1) == first.output("train", 1)
    assert same(again.output("train"), first.output("train"))
    assert log.read_text().splitlines() == kept
    # Its cost is that of the steps that are known, and no sum of a part.
    cost = again.output("train").cost
    assert cost.seconds is None
    assert cost.seconds_a_step == pytest.approx(sum(json.loads(line)["seconds"] for line in kept) / 2)
    assert cost.peak_bytes == max(json.loads(line)["peak_bytes"] for line in kept)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_log_with_a_damaged_line_and_no_checkpoint(comfyui: Any, loras: Path, steps: list[int], number: int) -> None:
    """The loss of that line is lost and no other one; the last one is in the adapter's file as well."""
    folder = f"no_checkpoint_{number}"
    prompt = prompt_of(folder, kept={"name": NAME, "checkpoint_every": 0})
    prompt |= {"graph": node("LossGraphNode", loss=["train", 1], filename_prefix="tests/loss")}
    first = comfyui.run(prompt, want=["train"])
    damage(folder_of(comfyui, folder) / "log.jsonl", number)
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"])
    assert steps == [1, 2, 3]
    assert again.text("train").splitlines()[0] == f"{AGAIN}{loras / FILE}"
    assert again.text("train").count(f"WARNING: log.jsonl: damaged line {number} is skipped") == 1
    losses = first.output("train", 1)["loss"]
    left = [loss for step, loss in enumerate(losses, 1) if step != number or step == 3]
    assert again.output("train", 1) == {"loss": left}
    line = f"loss {losses[0]:.4f} (first tenth) -> {losses[2]:.4f} (last tenth)"
    if number == 1:
        line = line.replace(f"{losses[0]:.4f}", "not known", 1)
    line += "" if number == 3 else "; its log has lost 1 of 3 losses"
    assert line in again.text("train").splitlines()
    assert again.output("train").training_seconds is None
    assert again.output("train").cost == first.output("train").cost
    assert again.output("train", 3).shape == first.output("train", 3).shape


def test_what_a_report_says_of_losses_with_a_gap(pack: Any) -> None:
    report = pack.trainers.run.report
    losses = [float(step) for step in range(1, 101)]
    assert report.before("t", losses, 100, 50.0, False) == [
        "t, 100 steps in 50.0 s (0.500 s a step)",
        "loss 5.5000 (first tenth) -> 95.5000 (last tenth)",
    ]
    losses[49] = math.nan
    lost = "; its log has lost 1 of 100 losses"
    assert report.before("t", losses, 100, None, False)[1] == (
        f"loss 5.5000 (first tenth) -> 95.5000 (last tenth){lost}"
    )
    losses[0] = math.nan  # the mean of 2 to 10
    assert report.before("t", losses, 100, None, False)[1].startswith("loss 6.0000 (first tenth) -> 95.5000 (last")
    losses[:10] = [math.nan] * 10
    assert report.before("t", losses, 100, None, False)[1].startswith("loss not known (first tenth) -> 95.5000")


def test_what_is_on_the_model_and_what_is_missing_is_said(comfyui: Any, steps: list[int]) -> None:
    """Another adapter on the model is part of the run; previews are made in a training only."""
    prompt = prompt_of("patched", previews=["previews", 0], model=["patched", 0])
    prompt |= sampling(["model", 0], "base") | {"previews": previews(), "first": trainer("lora", seed=9)}
    prompt |= {"patched": applied(["first", 0])}
    reports = []
    for _ in range(2):
        reports.append(comfyui.run(prompt, want=["train"]).text("train").splitlines())
        assert steps == [1, 2, 3, 1, 2, 3]
        comfyui.reset()
    (note,) = [line for line in reports[0] if line.startswith("trained on top of ")]
    assert reports[1][0].startswith(AGAIN)
    assert reports[1][1] == note
    assert "no previews: they are only made during training" in reports[1]


def test_an_adapter_that_changes_nothing_is_an_error_each_time(comfyui: Any) -> None:
    for _ in range(2):
        failed = comfyui.fail(prompt_of("nothing", "lora", learning_rate=1e-60), want=["train"])
        assert "The trained adapter changes nothing" in failed.message
