"""The name of Train Adapter: a file in models/loras that loaders list, never another run's; full disks; a stop."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from .test_adapter_nodes import Prompt, loader, sampling, saver, settings, training_prompt
from .test_training_nodes import previews

FOLDER = "named"


@pytest.fixture(autouse=True)
def named(loras: Path) -> Iterator[Path]:
    """The folder that the names of these tests lead to."""
    folder = loras / FOLDER
    yield folder
    folder.chmod(0o755) if folder.exists() else None
    shutil.rmtree(folder, ignore_errors=True)


def prompt_of(name: str, **changed: Any) -> Prompt:
    return training_prompt(name=f"{FOLDER}/{name}", **changed)


def header(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_named_adapter_is_listed_and_loads_and_is_as_save_adapter_writes_it(comfyui: Any, named: Path) -> None:
    import folder_paths

    listed = folder_paths.get_filename_list("loras")  # what the page had before: in ComfyUI's cache
    assert f"{FOLDER}/rex.safetensors" not in listed
    run = comfyui.run(prompt_of("rex") | {"save": saver()}, want=["train", "save"])
    file = named / "rex.safetensors"
    assert f"written to {file}" in run.text("train")
    assert files(named) == ["rex.safetensors"]
    assert same(load_file(file), run.output("train"))
    own, saved = header(file), header(Path(run.output("save")))
    assert own.pop("training_run")
    assert own.pop("modelspec.title") == own.pop("ss_output_name") == "rex"
    assert {key: value for key, value in saved.items() if key in own} == own
    assert set(saved) - set(own) == {"modelspec.title", "ss_output_name"}
    applied = comfyui.run({**training_prompt(), "load": loader(f"{FOLDER}/rex.safetensors")}, want=["load"])
    assert "11 layers applied" in applied.output("load", 2)


def test_without_a_name_no_file_is_written(comfyui: Any, loras: Path) -> None:
    before = sorted(loras.rglob("*"))
    for name in ("", "  "):
        report = comfyui.run(training_prompt(name=name), want=["train"]).text("train")
        assert "written to" not in report
    assert sorted(loras.rglob("*")) == before


def test_the_last_preview_lies_beside_it(comfyui: Any, named: Path) -> None:
    prompt = prompt_of("rex.safetensors", steps=4, previews=["previews", 0])
    prompt |= sampling(["model", 0], "base") | {"previews": previews()}
    run = comfyui.run(prompt, want=["train"])
    assert files(named) == ["rex.preview.png", "rex.safetensors"]
    with Image.open(named / "rex.preview.png") as picture:
        assert picture.size == (64, 64)
        kept = torch.tensor(list(picture.convert("RGB").tobytes())).view(64, 64, 3)
    sheet = run.output("train", 4)[0]
    last = sheet[-64 * 3 - 6 : -6, -64 * 3 - 6 : -6][1::3, 1::3]  # the sheet has it enlarged threefold
    assert (kept / 255 - last).abs().mean() < 0.02
    # A picture that somebody put there is left.
    Image.new("RGB", (8, 8)).save(named / "rex.preview.png")
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"]).text("train")
    assert "rex.preview.png beside it is not of this run and was left" in again
    with Image.open(named / "rex.preview.png") as picture:
        assert picture.size == (8, 8)


def test_another_run_s_file_is_left_and_the_same_run_s_is_replaced(comfyui: Any, named: Path) -> None:
    first = comfyui.run(prompt_of("rex"), want=["train"]).output("train")
    other = comfyui.run(prompt_of("rex", seed=2), want=["train"])
    assert f"written to {named / 'rex_2.safetensors'}" in other.text("train")
    assert same(load_file(named / "rex.safetensors"), first)
    longer = comfyui.run(prompt_of("rex", steps=5), want=["train"]).output("train")  # more steps: the same run
    assert files(named) == ["rex.safetensors", "rex_2.safetensors"]
    assert same(load_file(named / "rex.safetensors"), longer)
    assert same(load_file(named / "rex_2.safetensors"), other.output("train"))
    # What Save Adapter makes of a run's file is no file of the run.
    copied = training_prompt() | {
        "file": {
            "class_type": "DEFTLoadAdapterFile",
            "inputs": {"file": f"{FOLDER}/rex.safetensors", "projector": "auto"},
        },
        "save": saver(adapter=["file", 0]),
    }
    assert "training_run" not in header(Path(comfyui.run(copied, want=["save"]).output("save")))


@pytest.mark.parametrize(
    "name",
    ["../rex", "a/../../rex", "/tmp/rex", "a//rex", "a\\..\\rex", ".rex", "a/", "re:x", "C:/rex", "x" * 300, "re\nx"],
)
def test_a_name_out_of_the_folder_is_an_error_before_the_training(comfyui: Any, loras: Path, name: str) -> None:
    before = sorted(loras.parent.rglob("*"))
    failed = comfyui.fail(training_prompt(name=name, steps=1_000_000), want=["train"])
    assert failed.node_type == "DEFTTrainAdapter"
    assert "is not one of a file within models/loras" in failed.message
    assert sorted(loras.parent.rglob("*")) == before


def test_a_full_disk_does_not_lose_the_training(comfyui: Any, named: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit on a file's size stands for it: writing fails in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        run = comfyui.run(prompt_of("rex"), want=["train"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    text = f"the adapter could not be written to {named / 'rex.safetensors'} (File too large)"
    assert f"WARNING: {text}" in run.text("train")
    assert "connect Save Adapter" in run.text("train")
    assert text in caplog.text
    assert run.output("train")
    assert files(named) == []


def test_a_folder_that_cannot_be_made_is_a_warning(comfyui: Any, named: Path, loras: Path) -> None:
    named.write_text("a file where the folder should be")
    try:
        run = comfyui.run(prompt_of("rex"), want=["train"])
    finally:
        named.unlink()
    assert "WARNING: the adapter could not be written to" in run.text("train")
    assert run.output("train")


def texts_at_the_node(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shown: list[str] = []
    monkeypatch.setattr(comfyui.module("nodes.training"), "show_text", shown.append)
    return shown


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"checkpoint_every": 100, "resume": True}, "stopped at step 3 of 200, kept; run again to go on"),
        (
            {"checkpoint_every": 100, "resume": False},
            "stopped at step 3 of 200, kept; switch resume on and run again to go on",
        ),
        ({}, "stopped at step 3 of 200; nothing is kept, because checkpoint_every is 0"),
    ],
)
def test_a_stop_is_said_at_the_node(
    comfyui: Any, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], expected: str, named: Path
) -> None:
    import comfy.model_management

    shown = texts_at_the_node(comfyui, monkeypatch)
    reporter = comfyui.module("nodes.training").StepReporter
    own = reporter.__call__

    def interrupt(self: Any, progress: Any) -> None:
        own(self, progress)
        if progress.step == 3:
            comfy.model_management.interrupt_current_processing()

    prompt = prompt_of("rex", steps=200, seed=77)
    prompt["settings"] = settings(run_name=f"tests/stop_{len(changed)}_{changed.get('resume')}", **changed)
    with monkeypatch.context() as patch:
        patch.setattr(reporter, "__call__", interrupt)
        failed = comfyui.fail(prompt, want=["train"])
    assert failed.kind == "interrupted"
    assert shown[-1] == expected
    assert not named.exists()


def test_a_rate_far_from_the_usual_one_is_said_before_the_first_step_and_in_the_report(
    comfyui: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shown = texts_at_the_node(comfyui, monkeypatch)
    text = "WARNING: learning rate 1e-4 is 40 times the usual one for dreambooth (2.5e-6, DreamBench++)"
    with caplog.at_level("INFO"):
        report = comfyui.run(training_prompt("dreambooth", learning_rate=1e-4), want=["train"]).text("train")
    assert report.count(text) == 1
    assert text in shown[0]
    assert "step 1/3" in shown[1]
    assert text in caplog.text
    usual = comfyui.run(training_prompt("dreambooth", learning_rate=2.5e-6), want=["train"]).text("train")
    assert "the usual one" not in usual
