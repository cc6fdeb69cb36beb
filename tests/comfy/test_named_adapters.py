"""The name in Training Settings: a file in models/loras that loaders list, never another run's; full disks."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ..measured import but_cost
from ..tools import header, same
from .test_adapter_nodes import Prompt, loader, node, sampling, saver, settings, training_prompt
from .test_training_nodes import previews

NAME = "my dog"
FILE = f"{NAME}.safetensors"
PICTURE = f"{NAME}.preview.png"


@pytest.fixture(autouse=True)
def own_folder(loras: Path) -> Iterator[None]:
    """What these tests write is gone after each."""
    before = {*loras.iterdir()}
    yield
    for path in {*loras.iterdir()} - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def prompt_of(name: str = NAME, kept: dict[str, Any] | None = None, **changed: Any) -> Prompt:
    """A training of this name; `kept` are other values of Training Settings."""
    return training_prompt(**changed) | {"settings": settings(name=name, **(kept or {}))}


def own_files(loras: Path) -> list[str]:
    return sorted(path.name for path in loras.iterdir() if path.name.startswith("my"))


def test_a_named_adapter_is_listed_and_loads_and_is_as_save_adapter_writes_it(comfyui: Any, loras: Path) -> None:
    import folder_paths

    assert FILE not in folder_paths.get_filename_list("loras")  # ComfyUI keeps this list
    run = comfyui.run(prompt_of() | {"save": saver()}, want=["train", "save"])
    file = loras / FILE
    assert f"written to {file}" in run.text("train").splitlines()
    assert own_files(loras) == [FILE]
    assert same(load_file(file), run.output("train"))
    own, saved = header(file), header(Path(run.output("save")))
    assert own.pop("training_run")
    assert own.pop("modelspec.title") == own.pop("ss_output_name") == NAME
    assert {key: value for key, value in saved.items() if key in own} == own
    assert set(saved) - set(own) == {"modelspec.title", "ss_output_name"}
    applied = comfyui.run({**training_prompt(), "load": loader(FILE)}, want=["load"])
    assert "11 layers applied" in applied.output("load", 2)
    core = {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["model", 0], "strength_model": 1.0}}
    core["inputs"]["lora_name"] = FILE
    (model,) = comfyui.run({**training_prompt(), "core": core}, want=["core"]).outputs["core"][0]
    assert len(model.patches) == 11


def test_a_name_changes_nothing_of_the_run(comfyui: Any) -> None:
    """The seed's numbers, the mark of the run's folder, what lies there, and the adapter's header are the same."""
    runs = {}
    for name in ("", NAME):
        folder = comfyui.base / "output" / "tests" / f"named_{bool(name)}"
        kept = {"checkpoint_every": 2, "run_name": f"tests/{folder.name}/run"}
        adapter = comfyui.run(prompt_of(name, kept), want=["train"]).output("train")
        (run,) = folder.iterdir()
        runs[name] = adapter, run.name, {file.name: but_cost(file) for file in run.glob("adapter_*")}
    (plain, mark, files), (with_name, other_mark, other_files) = runs.values()
    assert same(plain, with_name)
    assert plain.metadata == with_name.metadata
    assert mark == other_mark
    assert list(files) == ["adapter_00000002.safetensors", "adapter_00000003.safetensors"]
    assert files == other_files


def test_a_connected_name_is_that_of_training_settings(comfyui: Any, loras: Path) -> None:
    """A widget behind the method would move the values of saved workflows; a socket moves nothing."""
    kept = {"run_name": "tests/connected_name/run", "resume": True}
    prompt = prompt_of("", kept) | {"words": node("PrimitiveString", value=f" {FILE} ")}
    prompt["train"]["inputs"]["name"] = ["words", 0]
    run = comfyui.run(prompt, want=["train"])
    assert f"written to {loras / FILE}" in run.text("train").splitlines()
    (folder,) = (comfyui.base / "output" / "tests" / "connected_name").iterdir()
    # The same run with the name in Training Settings, or in both, is that one.
    before = (loras / FILE).read_bytes()
    for connected in (False, True):
        again = prompt_of(NAME, kept) | {"words": prompt["words"]}
        if connected:
            again["train"]["inputs"]["name"] = ["words", 0]
        comfyui.reset()
        lines = comfyui.run(again, want=["train"]).text("train").splitlines()
        assert lines[0].startswith("finished before, not trained again: taken from ")
        assert lines[-1] == f"it is in {loras / FILE}"
    assert (loras / FILE).read_bytes() == before
    assert list(folder.parent.iterdir()) == [folder]
    other = prompt_of("another", kept) | {"words": prompt["words"]}
    other["train"]["inputs"]["name"] = ["words", 0]
    text = comfyui.fail(other, want=["train"]).message
    assert text == f"The input name is {NAME!r}, and Training Settings has the name 'another': choose one of them."
    prompt["words"]["inputs"]["value"] = "a/b"
    assert "must be a file's name without a folder" in comfyui.fail(prompt, want=["train"]).message


@pytest.mark.parametrize("name", [None, "", "  "])
def test_without_a_name_no_file_is_written(comfyui: Any, loras: Path, name: str | None) -> None:
    before = sorted(loras.rglob("*"))
    prompt = prompt_of(name or "")
    if name is None:  # a prompt of before there was one
        del prompt["settings"]["inputs"]["name"]
    assert "written to" not in comfyui.run(prompt, want=["train"]).text("train")
    assert sorted(loras.rglob("*")) == before


def test_the_last_preview_lies_beside_it(comfyui: Any, loras: Path) -> None:
    prompt = prompt_of(f" {FILE} ", steps=4, previews=["previews", 0])
    prompt |= sampling(["model", 0], "base") | {"previews": previews()}
    run = comfyui.run(prompt, want=["train"])
    assert f"with its last preview, {PICTURE}" in run.text("train").splitlines()
    assert own_files(loras) == [PICTURE, FILE]
    with Image.open(loras / PICTURE) as picture:
        assert picture.size == (64, 64)
        kept = torch.tensor(list(picture.convert("RGB").tobytes())).view(64, 64, 3)
    sheet = run.output("train", 4)[0]
    last = sheet[-64 * 3 - 10 : -10, -64 * 3 - 10 : -10][1::3, 1::3]  # the sheet has it enlarged threefold
    assert (kept / 255 - last).abs().mean() < 0.02
    # A picture that somebody put there is left.
    Image.new("RGB", (8, 8)).save(loras / PICTURE)
    comfyui.reset()
    again = comfyui.run(prompt, want=["train"]).text("train")
    assert f"the picture {PICTURE} beside it is not from this run and was kept" in again
    with Image.open(loras / PICTURE) as picture:
        assert picture.size == (8, 8)


def test_another_run_s_file_is_an_error_before_the_first_step_and_the_same_run_s_is_replaced(
    comfyui: Any, loras: Path
) -> None:
    first = comfyui.run(prompt_of(), want=["train"]).output("train")
    failed = comfyui.fail(prompt_of(seed=2, learning_rate=0.02, steps=40), want=["train"])
    assert failed.node_type == "DEFTTrainAdapter"
    assert failed.message == (
        f"The file {loras / FILE} already exists, of a training with another learning rate, seed: choose another "
        "name, or move that file away."
    )
    assert same(load_file(loras / FILE), first)
    other = prompt_of(steps=40) | {"subject": training_prompt()["subject"]}
    other["subject"]["inputs"] |= {"subject": "cat"}
    assert "of a training with another set of pictures or captions:" in comfyui.fail(other, want=["train"]).message
    longer = comfyui.run(prompt_of(steps=5), want=["train"]).output("train")  # more steps: the same run
    assert own_files(loras) == [FILE]
    assert same(load_file(loras / FILE), longer)
    assert not same(first, longer)


def test_a_file_from_elsewhere_is_left(comfyui: Any, loras: Path) -> None:
    """Save Adapter's of the same run, too: only the run's own file has its mark."""
    run = comfyui.run(prompt_of() | {"save": saver()}, want=["train", "save"])
    copied = training_prompt() | {
        "file": {"class_type": "DEFTLoadAdapterFile", "inputs": {"file": FILE, "projector": "auto"}},
        "save": saver(adapter=["file", 0]),
    }
    assert "training_run" not in header(Path(comfyui.run(copied, want=["save"]).output("save")))
    text = Path(run.output("save")).read_bytes()
    for data in (text, b"", b"something else"):
        (loras / FILE).write_bytes(data)
        assert f"The file {loras / FILE} already exists, of " in comfyui.fail(prompt_of(), want=["train"]).message
        assert (loras / FILE).read_bytes() == data


def test_a_file_of_another_folder_is_not_put_in_the_shade(
    comfyui: Any, loras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    paths, suffixes = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([*paths, str(tmp_path)], suffixes))
    (tmp_path / FILE).write_bytes(b"of somebody")
    failed = comfyui.fail(prompt_of(steps=40), want=["train"])
    assert failed.message.startswith(f"The file {tmp_path / FILE} already exists, and loaders would find")
    assert own_files(loras) == []


@pytest.mark.parametrize(
    "name",
    ["../dog", "a/dog", "/tmp/dog", "a\\dog", ".dog", "dog.", "d:g", "x" * 300, "d\ng", "NUL", "com1.dog", "..", "?"],
)
def test_a_name_that_is_no_file_s_is_an_error(comfyui: Any, loras: Path, name: str) -> None:
    before = sorted(loras.parent.rglob("*"))
    failed = comfyui.fail(prompt_of(name, steps=40), want=["train"])
    assert failed.node_type == "DEFTTrainingSettings"
    assert failed.message.startswith("The setting name must be a file's name without a folder, such as my_dog, not ")
    assert sorted(loras.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["my dog", "my.dog", "我的狗", "my-dog_2", "nullo"])
def test_names_of_files(comfyui: Any, name: str) -> None:
    run = comfyui.module("trainers.settings.run").Run.of(name=f"{name}.safetensors")
    assert run.name == name


def test_a_full_disk_does_not_lose_the_training(comfyui: Any, loras: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit on a file's size stands for it: writing fails in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        run = comfyui.run(prompt_of(), want=["train"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    text = f"the adapter could not be written to {loras / FILE} (File too large): free some space"
    assert f"WARNING: {text}" in run.text("train")
    assert "connect Save Adapter" in run.text("train")
    assert text in caplog.text
    assert run.output("train")
    assert own_files(loras) == []


def test_a_file_that_comes_while_it_trains_is_left(comfyui: Any, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = comfyui.module("nodes.training").StepReporter
    own = reporter.__call__

    def write(self: Any, progress: Any) -> None:
        own(self, progress)
        (loras / FILE).write_bytes(b"of somebody")

    monkeypatch.setattr(reporter, "__call__", write)
    run = comfyui.run(prompt_of(), want=["train"])
    assert f"WARNING: {loras / FILE} was created meanwhile and was not replaced" in run.text("train")
    assert (loras / FILE).read_bytes() == b"of somebody"
    assert run.output("train")


def test_the_mark_is_that_of_the_run_s_folder(comfyui: Any, loras: Path) -> None:
    kept = {"checkpoint_every": 100, "run_name": "tests/marked/run"}
    run = comfyui.run(prompt_of(kept=kept), want=["train"])
    (folder,) = (comfyui.base / "output" / "tests" / "marked").iterdir()
    assert header(loras / FILE)["training_run"] == folder.name.removeprefix("run_")
    assert json.loads(run.output("train").metadata["training"])["steps"] == 3
