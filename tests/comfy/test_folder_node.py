"""Load Pictures of a Folder in a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..fuzz.memory import Memory

ROOT = Path(__file__).resolve().parent.parent.parent


def prompt(folder: str) -> dict[str, Any]:
    return {"1": {"class_type": "DEFTLoadFolder", "inputs": {"folder": folder}}}


@pytest.fixture
def pictures(comfyui: Any) -> Path:
    """Three pictures of two sizes in output/made here, two of them with a caption."""
    folder = comfyui.base / "output" / "made here"
    folder.mkdir(exist_ok=True)
    for number, (size, colour) in enumerate((((8, 6), "red"), ((4, 4), "lime"), ((8, 6), "blue"))):
        Image.new("RGB", size, colour).save(folder / f"{number}.png")
    for number in (0, 2):
        (folder / f"{number}.txt").write_text(f"text {number}\n")
    (folder / "notes.md").write_text("not a picture")
    return folder


def test_pictures_come_in_order_with_captions(comfyui: Any, pictures: Path) -> None:
    run = comfyui.run(prompt("output/made here"), want=["1"])
    images = run.output("1")
    assert [tuple(image.shape) for image in images] == [(1, 6, 8, 3), (1, 4, 4, 3), (1, 6, 8, 3)]
    assert [image[0, 0, 0].tolist() for image in images] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert run.output("1", 1) == ["text 0", "", "text 2"]
    assert run.output("1", 2) == ["0", "1", "2"]


def test_a_changed_folder_is_read_again(comfyui: Any, pictures: Path) -> None:
    comfyui.run(prompt("output/made here"), want=["1"])
    Image.new("RGB", (4, 4), "white").save(pictures / "3.png")
    assert len(comfyui.run(prompt("output/made here"), want=["1"]).output("1")) == 4
    (pictures / "3.png").unlink()


def test_list_has_folders_with_pictures_only(comfyui: Any, pictures: Path) -> None:
    (comfyui.base / "input" / "nothing in it").mkdir(exist_ok=True)
    options = comfyui.pack_nodes["DEFTLoadFolder"].GET_SCHEMA().inputs[0].options
    assert "output/made here" in options
    assert "demo/teddy_bear_deft" in options
    assert "input/nothing in it" not in options


def test_demo_pictures_are_those_of_the_files(comfyui: Any) -> None:
    images = comfyui.run(prompt("demo/teddy_bear_deft"), want=["1"]).output("1")
    first = np.asarray(Image.open(ROOT / "demo" / "pictures" / "teddy_bear_deft" / "0.png"), dtype=np.float32) / 255
    assert len(images) == 8
    assert np.array_equal(images[0][0].numpy(), first)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("output/../..", "is not a folder in ComfyUI's input or output folder"),
        ("/etc", "is not a folder in ComfyUI's input"),
        ("elsewhere/x", "is not a folder in ComfyUI's input"),
        (None, "None is not a folder in ComfyUI's input"),
        ("output/no such", "There is no folder 'output/no such'"),
    ],
)
def test_other_places_are_refused(comfyui: Any, name: str, words: str) -> None:
    """The node's own check, for what gets past ComfyUI's list of values."""
    folder_of = comfyui.module("nodes.folders").folder_of
    with pytest.raises(ValueError, match=words):
        folder_of(name)
    failed = comfyui.fail(prompt(name), want=["1"])
    assert failed.stage == "validation"


def test_a_broken_file_is_named(comfyui: Any) -> None:
    """A picture that was cut off while it was copied."""
    folder = comfyui.base / "input" / "broken"
    folder.mkdir(exist_ok=True)
    whole = ROOT / "demo" / "pictures" / "teddy_bear_deft" / "0.png"
    (folder / "cut.png").write_bytes(whole.read_bytes()[:800])
    failed = comfyui.fail(prompt("input/broken"), want=["1"])
    assert "cut.png cannot be read as a picture" in str(failed)
    assert "replace or remove it" in str(failed)


def test_transparency_lies_on_white(comfyui: Any) -> None:
    folder = comfyui.base / "input" / "see through"
    folder.mkdir(exist_ok=True)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / "clear.png")
    assert comfyui.run(prompt("input/see through"), want=["1"]).output("1")[0].min() == 1


def test_a_picture_is_held_twice_at_most(comfyui: Any) -> None:
    """The floats that are given and Pillow's picture: 16 bytes a pixel, and some that the system has not yet got back.

    Floats once more would be 28.
    """
    folder = comfyui.base / "output" / "large"
    folder.mkdir()
    Image.new("1", (6000, 5000), 1).save(folder / "0.png")
    memory = Memory()
    before = memory.start()
    assert comfyui.run(prompt("output/large"), want=["1"]).output("1").shape == (1, 5000, 6000, 3)
    assert memory.peak() - before < 22 * 6000 * 5000
