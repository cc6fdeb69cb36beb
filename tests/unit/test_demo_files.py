"""What ships for the demo: sizes, subjects, captions, licence notice, the pack's version."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from deft_pack.deft_ops import files
from deft_pack.deft_ops.version import VERSION
from deft_pack.demo.recipe.vocabulary import COLOURS, HELD_OUT, SCENES, TRAINED_NAMES, caption, scene_caption


def test_demo_models_are_small(root: Path) -> None:
    paths = list((root / "demo" / "models").rglob("*.safetensors"))
    assert len(paths) == 8
    assert sum(file.stat().st_size for file in paths) < 25e6


def test_adapters_are_small_and_say_what_they_are(root: Path) -> None:
    adapters = sorted((root / "demo" / "models" / "loras").iterdir())
    assert [file.stem for file in adapters] == [
        f"deft_demo_{name}" for name in ("duck_deft", "teddy_bear_deft", "teddy_bear_lora")
    ]
    for file in adapters:
        assert file.stat().st_size < 300e3
        adapter = files.read(file)
        assert adapter.metadata["method"] == file.stem.rsplit("_", 1)[1]
        assert adapter.metadata["base_hash"]


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_has_five_pictures_whose_captions_name_what_is_there(root: Path, name: str) -> None:
    folder = root / "demo" / "subjects" / name
    captions = [picture.with_suffix(".txt").read_text().strip() for picture in sorted(folder.glob("*.png"))]
    assert captions == [scene_caption(name, objects, colour) for *objects, colour in SCENES[name]]
    assert len(set(captions)) == 5
    assert {Image.open(picture).size for picture in folder.glob("*.png")} == {(64, 64)}
    subjects = set(HELD_OUT + TRAINED_NAMES)
    assert all(subject in subjects for *objects, _ in SCENES[name] for subject in objects)


def test_subjects_are_these_and_no_others(root: Path) -> None:
    folders = {folder.name for folder in (root / "demo" / "subjects").iterdir() if folder.is_dir()}
    assert folders == {name.replace(" ", "_") for name in (*HELD_OUT, *SCENES)}


def test_folders_of_pictures_have_captions(root: Path) -> None:
    folders = sorted((root / "demo" / "pictures").iterdir())
    assert [folder.name for folder in folders] == ["teddy_bear_base", "teddy_bear_deft", "teddy_bear_lora"]
    for folder in folders:
        pictures = sorted(folder.glob("*.png"))
        assert len(pictures) == 8
        assert {Image.open(picture).size for picture in pictures} == {(64, 64)}
        assert all(picture.with_suffix(".txt").read_text().startswith("a teddy bear on a") for picture in pictures)
        assert all("workflow" not in Image.open(picture).info for picture in pictures)


@pytest.mark.parametrize("name", HELD_OUT)
def test_every_subject_has_five_captioned_pictures(root: Path, name: str) -> None:
    folder = root / "demo" / "subjects" / name.replace(" ", "_")
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 5
    expected = {caption(name, colour) for colour in COLOURS}
    captions = [picture.with_suffix(".txt").read_text().strip() for picture in pictures]
    assert set(captions) <= expected
    assert len(set(captions)) == 5
    assert {Image.open(picture).size for picture in pictures} == {(64, 64)}


def test_held_out_objects_are_in_no_trained_caption() -> None:
    assert not set(HELD_OUT) & set(TRAINED_NAMES)
    assert len(TRAINED_NAMES) > 200


def test_licence_notice_is_beside_the_pictures(root: Path) -> None:
    assert "Permission is hereby granted" in (root / "demo" / "subjects" / "LICENSE.md").read_text()


def test_captions_fit_the_text_encoder(root: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(root / "demo" / "models" / "tokenizer")
    texts = [caption(f"sks {name}", colour) for name in HELD_OUT + TRAINED_NAMES for colour in COLOURS]
    texts += [scene_caption(f"sks {name}", objects, colour) for name in SCENES for *objects, colour in SCENES[name]]
    assert max(map(len, tokenizer(texts)["input_ids"])) <= 16


def test_version_is_the_same_everywhere(root: Path) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert f"## [{VERSION}]" in (root / "CHANGELOG.md").read_text()
