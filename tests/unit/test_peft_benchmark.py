"""What the plan of PEFT's image benchmark gets out of PEFT's own files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.ready.peft_benchmark import prepare, split

from ..peft_files import CAPTIONS, DRIFT, PLAN, PROMPTS, SIDE, peft_files


def prepared(folder: Path, **changes: Any) -> list[str]:
    """What is said when the files in a folder are prepared; input and CSV are beside them."""
    photos, parameters = peft_files(folder, **changes)
    return prepare(photos, parameters, folder / "input", folder / PROMPTS)


@pytest.mark.parametrize(("count", "valid", "test"), [(20, 2, 4), (5, 1, 2), (7, 0, 3)])
def test_photos_are_parted_as_by_peft(count: int, valid: int, test: int) -> None:
    """The lines of its data.py, which shuffle by NumPy's global generator."""
    state = np.random.get_state()
    np.random.seed(0)
    indices = np.arange(count)
    np.random.shuffle(indices)
    np.random.set_state(state)
    train_size = count - valid - test
    assert split(count, valid, test) == (
        indices[:train_size].tolist(),
        indices[train_size + valid : train_size + valid + test].tolist(),
    )
    assert np.array_equal(np.random.get_state()[1], state[1])  # type: ignore[index]


def test_folders_and_prompts(tmp_path: Path) -> None:
    lines = prepared(tmp_path)
    training, test = split(5, 1, 2)
    folder = tmp_path / "input" / "peft_benchmark"
    assert sorted(path.name for path in (folder / "training").iterdir()) == sorted(
        f"{place:02}.{suffix}" for place in training for suffix in ("png", "txt")
    )
    for place in training:
        assert (folder / "training" / f"{place:02}.txt").read_text() == f"{CAPTIONS[place]}\n"
        with Image.open(folder / "training" / f"{place:02}.png") as picture:
            assert picture.size == (SIDE, SIDE)
    for place in test:  # as they are
        held_out, photo = (
            np.array(Image.open(path).convert("RGB"))
            for path in (folder / "held_out" / f"{place:02}.png", tmp_path / "photos" / f"{place:02}.png")
        )
        assert np.array_equal(held_out, photo)
    with open(tmp_path / PROMPTS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["prompt"], row["pictures"]) for row in rows] == [
        *(("likeness", CAPTIONS[place], "3") for place in test),
        *(("drift", text, "1") for text in DRIFT),
    ]
    assert [row["photo"] for row in rows[:2]] == [f"peft_benchmark/held_out/{place:02}.png" for place in test]
    parts = dict.fromkeys(training, "training") | dict.fromkeys(test, "test")
    assert lines[:5] == [
        f"{place:02}.png: {parts.get(place, 'validation, not used')}: {CAPTIONS[place]}" for place in range(5)
    ]
    # The plan reads what was written.
    (tmp_path / PLAN.name).write_text(PLAN.read_text())
    prompts = next(axis for axis in read_plan(tmp_path / PLAN.name).axes if axis.name == "prompt")
    assert [value.facts["kind"] for value in prompts.values] == ["likeness", "likeness", "drift"]


def test_training_pictures_are_squeezed_into_a_square(tmp_path: Path) -> None:
    """PEFT uses torchvision's Resize to (side, side), without keeping the shape."""
    from torchvision.transforms import InterpolationMode, Resize

    photos, parameters = peft_files(tmp_path)
    training, _ = split(5, 1, 2)
    noise = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    wide = Image.fromarray(noise)
    wide.save(photos / f"{training[0]:02}.png")
    prepare(photos, parameters, tmp_path / "input", tmp_path / PROMPTS)
    with Image.open(tmp_path / "input" / "peft_benchmark" / "training" / f"{training[0]:02}.png") as made:
        theirs = Resize((SIDE, SIDE), interpolation=InterpolationMode.BILINEAR)(wide)
        assert np.array_equal(np.array(made), np.array(theirs))


def test_another_version_of_the_benchmark_is_said(tmp_path: Path) -> None:
    lines = prepared(tmp_path, max_steps=800)
    assert "max_steps is 800 there and 750 in the plan: PEFT has changed it since" in "\n".join(lines)
    assert "batch_size" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"instance_prompts": CAPTIONS[:4]}, "has 5 photos, and .* has 4 captions"),
        ({"instance_prompts": "sks cat"}, "has no list of texts 'instance_prompts'"),
        ({"drift_image_prompts": ...}, "has no list of texts 'drift_image_prompts'"),
        ({"valid_size": "two"}, "has no whole number 'valid_size'"),
        ({"test_size": 5}, "leave none to train or test"),
        ({"test_size": 0}, "leave none to train or test"),
    ],
)
def test_files_that_are_not_pefts(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        prepared(tmp_path, **changes)
    assert not (tmp_path / PROMPTS).exists()


@pytest.mark.parametrize("content", ["", "[1]", "not JSON", "[" * 200_000])
def test_parameters_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    photos, parameters = peft_files(tmp_path)
    parameters.write_text(content)
    with pytest.raises(ValueError, match="PEFT's default_training_params.json"):
        prepare(photos, parameters, tmp_path / "input", tmp_path / PROMPTS)


def test_parameters_with_a_mark_of_their_encoding(tmp_path: Path) -> None:
    """Windows' editors write it first."""
    photos, parameters = peft_files(tmp_path)
    parameters.write_bytes(b"\xef\xbb\xbf" + parameters.read_bytes())
    assert prepare(photos, parameters, tmp_path / "input", tmp_path / PROMPTS)
