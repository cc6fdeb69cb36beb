"""What ships for the demo: sizes, subjects, captions, licence notice, the pack's version."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib
from PIL import Image

from deft_pack.deft_ops.version import VERSION
from deft_pack.demo.recipe.vocabulary import COLOURS, HELD_OUT, TRAINED, caption


def test_demo_models_are_small(root: Path) -> None:
    files = list((root / "demo" / "models").rglob("*.safetensors"))
    assert len(files) == 5
    assert sum(file.stat().st_size for file in files) < 25e6


@pytest.mark.parametrize("name", HELD_OUT)
def test_every_subject_has_five_captioned_pictures(root: Path, name: str) -> None:
    folder = root / "demo" / "subjects" / name.replace(" ", "_")
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 5
    known = {caption(name, colour) for colour in COLOURS}
    captions = [picture.with_suffix(".txt").read_text().strip() for picture in pictures]
    assert set(captions) <= known and len(set(captions)) == 5
    assert {Image.open(picture).size for picture in pictures} == {(64, 64)}


def test_held_out_objects_are_in_no_trained_caption() -> None:
    assert not set(HELD_OUT) & set(TRAINED)
    assert len(TRAINED) > 200


def test_licence_notice_is_beside_the_pictures(root: Path) -> None:
    assert "Permission is hereby granted" in (root / "demo" / "subjects" / "LICENSE.md").read_text()


def test_captions_fit_the_text_encoder(root: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(root / "demo" / "models" / "tokenizer")
    texts = [caption(f"sks {name}", colour) for name in HELD_OUT + TRAINED for colour in COLOURS]
    assert max(map(len, tokenizer(texts)["input_ids"])) <= 16


def test_version_is_the_same_everywhere(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert f"## [{VERSION}]" in (root / "CHANGELOG.md").read_text()
