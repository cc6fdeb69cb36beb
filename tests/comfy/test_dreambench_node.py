"""Load DreamBench++ Subject in a real ComfyUI, on folders as those of the data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "bench/data/captions/live_subject/animal/18.txt"
LINES = [f"a photo of a sea turtle, number {number}" for number in range(9)]


def prompt(captions: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "DEFTLoadDreamBench", "inputs": {"captions": captions}},
        "2": {"class_type": "DEFTPrompts", "inputs": {"prompts": ["1", 1], "token": ""}},
    }


@pytest.fixture
def data(comfyui: Any) -> Iterator[Path]:
    """The folder data of the data set with two subjects, in a folder of the input."""
    data = comfyui.base / "input" / "bench" / "data"
    for category, number, lines in (
        ("live_subject/animal", "18", ["Sea Turtle ", *LINES]),
        ("style", "03", ["ink painting", *LINES]),
    ):
        for folder in ("captions", "images"):
            (data / folder / category).mkdir(parents=True)
        (data / "captions" / category / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
        Image.new("RGB", (8, 6), "lime").save(data / "images" / category / f"{number}.jpg")
    (data / "captions" / "readme.txt").write_text("not of a subject")
    yield data
    shutil.rmtree(data.parent)


def test_picture_prompts_and_names(comfyui: Any, data: Path) -> None:
    run = comfyui.run(prompt(NAME), want=["1", "2"])
    assert tuple(run.output("1").shape) == (1, 6, 8, 3)
    assert np.allclose(run.output("1")[0, 0, 0], [0, 1, 0], atol=0.02)
    assert run.output("2") == LINES  # a list: what follows runs once for each
    assert run.output("2", 1).splitlines() == LINES
    assert (run.output("1", 2), run.output("1", 3)) == ("Sea Turtle", "live_subject_animal_18_sea_turtle")
    assert run.text("1") == "live_subject_animal_18_sea_turtle: 9 prompts"
    style = comfyui.run(prompt("bench/data/captions/style/03.txt"), want=["1"])
    assert style.output("1", 3) == "style_03_ink_painting"


def test_the_list_has_texts_of_subjects_only(comfyui: Any, data: Path) -> None:
    options = comfyui.pack_nodes["DEFTLoadDreamBench"].GET_SCHEMA().inputs[0].options
    assert options == [NAME, "bench/data/captions/style/03.txt"]
    shutil.rmtree(data / "captions")
    (only,) = comfyui.pack_nodes["DEFTLoadDreamBench"].GET_SCHEMA().inputs[0].options
    assert only == "no captions in input"
    with pytest.raises(ValueError, match="ComfyUI's input has no subjects of DreamBench++"):
        comfyui.pack_nodes["DEFTLoadDreamBench"].execute(only)


def test_a_text_of_windows_and_another_count(comfyui: Any, data: Path) -> None:
    file = comfyui.base / "input" / NAME
    file.write_bytes("\r\n".join(["sea turtle", *LINES[:7], "", "  "]).encode("utf-8-sig"))
    run = comfyui.run(prompt(NAME), want=["1", "2"])
    assert run.output("2") == LINES[:7]
    assert run.output("1", 2) == "sea turtle"
    assert run.text("1") == "live_subject_animal_18_sea_turtle: 7 prompts; a subject of DreamBench++ has 9"


def test_a_changed_text_is_read_again(comfyui: Any, data: Path) -> None:
    comfyui.run(prompt(NAME), want=["2"])
    (comfyui.base / "input" / NAME).write_text("sea turtle\nanother prompt")
    assert comfyui.run(prompt(NAME), want=["2"]).output("2") == "another prompt"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", f"{NAME} is empty: take DreamBench++'s own file."),
        (b" \n\n", f"{NAME} is empty: take DreamBench++'s own file."),
        (b"\na prompt\n", f"{NAME} has no subject in its first line: take DreamBench++'s own file."),
        (b"sea turtle\n\n", f"{NAME} has a subject (sea turtle) and no prompts: one a line has to stand below it."),
        ("sea turtle\na prompt".encode("utf-16"), "is not a text in UTF-8 (byte 0): save it again as UTF-8."),
    ],
)
def test_bad_texts(comfyui: Any, data: Path, text: bytes, words: str) -> None:
    (comfyui.base / "input" / NAME).write_bytes(text)
    failed = comfyui.fail(prompt(NAME), want=["1"])
    assert (failed.node_id, failed.message.endswith(words)) == ("1", True), failed.message


def test_bad_pictures(comfyui: Any, data: Path) -> None:
    picture = data / "images" / "live_subject" / "animal" / "18.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    assert "18.jpg cannot be read as a picture" in comfyui.fail(prompt(NAME), want=["1"]).message
    picture.unlink()
    message = comfyui.fail(prompt(NAME), want=["1"]).message
    assert message.endswith("18.jpg does not exist: DreamBench++'s folder images belongs beside captions.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bench/data/captions/live_subject/animal/19.txt", "There is no file 'bench/data/captions/live_subject/animal"),
        ("../input/captions/../../models/captions/x/1.txt", "is no .txt file below a folder captions in ComfyUI's inp"),
        ("/etc/captions/x/1.txt", "is no .txt file below a folder captions in ComfyUI's input"),
        ("bench/data/captions/readme.txt", "is no .txt file below a folder captions in ComfyUI's input"),
        ("bench/data/captions/x\0/1.txt", "is no .txt file below a folder captions in ComfyUI's input"),
        (None, "None is no .txt file below a folder captions in ComfyUI's input"),
    ],
)
def test_bad_names(comfyui: Any, data: Path, name: Any, words: str) -> None:
    """The page refuses what is not in the list; a call of the function, as by another node, is answered here."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        comfyui.pack_nodes["DEFTLoadDreamBench"].execute(name)
    assert words in str(caught.value)
