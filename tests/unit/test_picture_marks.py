"""Marks in pictures: read back, one a picture, and every pixel as it was."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from ..scripts import load_script

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NAMED = PngInfo()
NAMED.add_text("Software", "another program")
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("PNG", "RGB", {"pnginfo": NAMED}),
    ("PNG", "RGBA", {"dpi": (80, 80)}),
    ("PNG", "P", {"optimize": True}),
    ("JPEG", "RGB", {"quality": 90}),
    ("JPEG", "RGB", {"progressive": True, "icc_profile": ICC}),
    ("JPEG", "L", {"comment": b"of another program"}),
]


@pytest.fixture(scope="module")
def marks() -> Any:
    return load_script("picture_marks")


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS)
def test_a_mark_changes_no_pixel(marks: Any, tmp_path: Path, kind: str, mode: str, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert("RGB" if mode == "P" else mode).convert(mode).save(data, kind, **options)
    once = marks.marked(data.getvalue(), marks.digest({"steps": 400}))
    twice = marks.marked(once, "CLIPLoader\nclip")
    path = tmp_path / "picture"
    for content, mark in ((once, marks.digest({"steps": 400})), (twice, "CLIPLoader\nclip")):
        path.write_bytes(content)
        assert marks.mark_of(path) == mark
        with Image.open(io.BytesIO(data.getvalue())) as before, Image.open(path) as after:
            assert before.mode == after.mode == mode
            assert before.tobytes() == after.tobytes()
            mark_keys = {"comment", "Description"}
            assert {key: before.info[key] for key in before.info.keys() - mark_keys} == {
                key: after.info[key] for key in after.info.keys() - mark_keys
            }
    assert b"made from" not in twice
    assert marks.marked(twice, "CLIPLoader\nclip") == twice
    assert marks.marked(twice, marks.digest({"steps": 400})) == once


def test_outdated_pictures(marks: Any, tmp_path: Path) -> None:
    path, missing = tmp_path / "picture.png", tmp_path / "missing.png"
    Image.new("RGB", (8, 8)).save(path)
    assert marks.outdated({path: "a", missing: "b"}) == [path, missing]
    path.write_bytes(marks.marked(path.read_bytes(), "a"))
    assert marks.outdated({path: "a", missing: "b"}) == [missing]
    assert marks.outdated({path: "c"}) == [path]


def test_a_digest_is_of_the_values(marks: Any) -> None:
    assert marks.digest({"a": 1, "b": 2}) == marks.digest({"b": 2, "a": 1})
    assert marks.digest([1, 2]) != marks.digest([2, 1])
    assert marks.digest({"a": 1}, 2) != marks.digest({"a": 1}, 3)


def test_no_other_kind_of_file(marks: Any) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "GIF")
    with pytest.raises(ValueError, match="a PNG or a JPEG only"):
        marks.marked(data.getvalue(), "a")
