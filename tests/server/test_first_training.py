"""The first way of who is new, in the page: a folder of odd photos, a training, the adapter in a fresh page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .example_files import ROOT, WORKFLOWS

CATS = ROOT / "demo" / "subjects" / "cat"
TRAIN, USE = WORKFLOWS / "1 Train my subject (demo).json", WORKFLOWS / "2 Use my adapter (demo).json"


def odd_photos(folder: Path) -> None:
    """Twelve files: of several kinds, shapes and depths, a damaged one and one that needs a package."""
    folder.mkdir(parents=True)
    photos = [Image.open(CATS / f"{number % 5}.png").convert("RGB") for number in range(10)]
    photos[0].save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photos[1].resize((96, 64)).save(folder / "turned.jpg", exif=exif)
    photos[2].putalpha(128)
    photos[2].save(folder / "clear.webp", lossless=True)
    photos[3].convert("L").save(folder / "grey.png")
    photos[4].convert("I;16").save(folder / "deep.png")
    photos[5].convert("CMYK").save(folder / "print.jpg")
    photos[6].resize((200, 40)).save(folder / "wide.bmp")
    photos[7].resize((20, 20)).save(folder / "small.tif")
    photos[8].convert("P").save(folder / "LOUD.PNG")
    photos[9].save(folder / "照片 1.png")
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:500])
    (folder / "IMG_5.heic").write_bytes(b"no picture")
    (folder / "plain.txt").write_text("a cat", encoding="utf-8-sig")
    (folder / "turned.caption").write_text("a [trigger] cat", encoding="utf-8")
    (folder / "照片 1.txt").write_text("一只猫", encoding="utf-8")


@pytest.mark.timeout(600)
def test_from_odd_photos_to_a_picture(server: Any, drive_browser: Any) -> None:
    def adapters() -> set[str]:
        node = server.get("/object_info/DEFTAdapterLoader")["DEFTAdapterLoader"]
        kind, *more = node["input"]["required"]["file"]
        return set(kind if isinstance(kind, list) else more[0]["options"])

    odd_photos(server.base / "input" / "odd photos")
    before = adapters()
    choose = {"DEFTPrepareTrainingPictures": {"folder": "input/odd photos"}, "DEFTTrainAdapter": {"steps": 4}}
    (seen,) = drive_browser("run", json.dumps({"vue": True, "set": choose}), TRAIN)
    assert "failed" not in seen, seen
    assert seen["end"]["kind"] == "execution_success"
    assert seen["errors"] == []
    assert seen["complaints"] == []
    shown = seen["shown"]["4"]
    first = seen["outputs"]["4"]["text"][0].splitlines()[0]
    assert first.startswith("10 of 12 files; ")
    assert "cut.png cannot be read as a picture" in first
    assert "IMG_5.heic" in first
    assert (
        "LOUD.PNG, clear.webp, deep.png, grey.png, print.jpg and 2 more have no caption, the default is used" in first
    )
    assert "".join(first.split()) in "".join(shown["text"].split())
    assert len(shown["pictures"]) == 1  # the sheet of thumbnails
    assert len(seen["shown"]["70"]["pictures"]) == 1

    (made,) = [name for name in adapters() - before if not name.startswith("output/")]  # those are checkpoints
    assert made.startswith("my_subject_")
    (used,) = drive_browser("run", json.dumps({"set": {"DEFTAdapterLoader": {"file": made}}}), USE)
    assert used["end"]["kind"] == "execution_success"
    assert used["errors"] == used["complaints"] == []
    assert len(used["shown"]["70"]["pictures"]) == 1
