"""The first way of who is new, in the page: a folder of odd photos, a training that is watched, stopped and run again,
and the adapter in a fresh page. In both kinds of nodes, and in the oldest and the newest front end.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .example_files import ROOT, WORKFLOWS

CATS = ROOT / "demo" / "subjects" / "cat"
TRAIN, USE = WORKFLOWS / "1 Train my subject (demo).json", WORKFLOWS / "2 Use my adapter (demo).json"
STEPS, EVERY = 300, 50


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


# Whether nodes are of HTML, and whose front end: 0.30.0's own, that of 0.24.0, and the newest.
PAGES = {"canvas": (False, ""), "vue": (True, ""), "canvas-1.45.15": (False, "1.45.15"), "vue-1.58.1": (True, "1.58.1")}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_from_odd_photos_to_a_picture(server: Any, drive_new_browser: Any, page: str) -> None:
    vue, front_end = PAGES[page]
    folder, name = f"odd photos {page}", f"odd_{page}".replace(".", "_")
    odd_photos(server.base / "input" / folder)
    options = {
        "vue": vue,
        "text": "a photo of sks",
        "name": name,
        "own": f"own_{name}",
        "steps": 20,
        "slow": 1000 if page == "canvas" else 0,
        "set": {
            "DEFTPrepareTrainingPictures": {"folder": f"input/{folder}"},
            "DEFTTrainAdapter": {"steps": STEPS, "seed": 100 + list(PAGES).index(page)},
            "DEFTSaveAdapter": {"filename_prefix": name},
            "DEFTTrainingPreviews": {"every": EVERY, "steps": 2},
            "KSampler": {"steps": 2},
        },
    }
    seen = drive_new_browser("first", json.dumps(options), TRAIN, USE, front_end=front_end)
    assert seen["errors"] == []

    # While it trains: a curve that grows, previews, the time; stopped from the side bar's tab.
    first = seen["first"]
    assert first["end"]["kind"] == "execution_interrupted"
    (curve,) = first["curves"].values()
    assert 20 < curve["points"] < STEPS
    assert curve["previews"][0][0] == "step 0"
    assert curve["previews"][0][1] > 0
    texts = first["texts"]["20"]
    assert any("s a step" in text and " left" in text for text in texts)
    stopped = text_at(first, "20").splitlines()[-1]
    assert re.fullmatch(rf"stopped at step \d+ of {STEPS}, kept; run again to continue", stopped)

    # Run again: it goes on, and the node says which photos it took.
    again = seen["again"]
    assert again["end"]["kind"] == "execution_success"
    assert complained(again) == []
    (curve,) = again["curves"].values()
    assert curve["noted"] == sorted(curve["noted"])
    assert len(curve["noted"]) >= 5
    assert curve["points"] == STEPS
    assert curve["inPage"]
    assert min(curve["box"]) > 50
    assert curve["drawn"] > 500  # pixels
    assert [title for title, _ in curve["previews"]] == [f"step {step}" for step in range(0, STEPS + 1, EVERY)]
    assert all(width > 0 for _, width in curve["previews"])
    file = server.base / "models" / "loras" / f"own_{name}.safetensors"
    assert text_at(again, "20").splitlines()[0] == f"written to {file}"
    assert file.is_file()
    # Pictures that were prepared for the run before are in the server's cache.
    text = again["outputs"]["4"]["text"][0].splitlines()[0]
    assert text.startswith("10 of 12 files; ")
    assert "cut.png cannot be read as a picture" in text
    assert "IMG_5.heic" in text
    assert "LOUD.PNG, clear.webp, deep.png, grey.png, print.jpg and 2 more have no caption, the default is used" in text
    # The server sends it once; it is still at the node when the next run has ended.
    assert text in text_at(first, "4")
    assert text_at(again, "4") == text_at(first, "4")
    assert len(again["shown"]["4"]["pictures"]) == 1  # the sheet of thumbnails
    assert len(again["shown"]["70"]["pictures"]) == 1
    # Another workflow is looked at: the curve and the texts are there again.
    back = seen["back"]
    assert list(back["curves"].values())[0]["points"] == STEPS
    assert back["atNodes"] == again["atNodes"]
    # Nothing of the curve and the texts is saved, whatever method is chosen.
    assert seen["before"] == seen["after"]
    assert "deft_curve" in seen["switched"]["before"]["widgets"]
    assert seen["switched"]["before"] == seen["switched"]["after"]

    # In a fresh page, where the server has the run in its cache: the curve from the run's folder, and the adapter.
    fresh, used = seen["fresh"], seen["used"]
    assert fresh["end"]["kind"] == "execution_success"
    assert list(fresh["curves"].values())[0]["points"] == STEPS
    assert list(fresh["curves"].values())[0]["previews"] == curve["previews"]
    assert (server.base / "models" / "loras" / used["file"]).is_file()
    assert used["end"]["kind"] == "execution_success"
    assert complained(used) == []
    assert len(used["shown"]["70"]["pictures"]) == 1


def text_at(run: dict[str, Any], node: str) -> str:
    """The text at a node when the run has ended; a person sees it once."""
    ((text, seen),) = run["atNodes"][node]
    assert seen == 1
    return text


def complained(run: dict[str, Any]) -> list[str]:
    """What the page complains of, but that its version is not the server's own."""
    return [text for text in run["complaints"] if "Version Compatibility Warning" not in text]
