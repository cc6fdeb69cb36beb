"""Prepare Training Pictures in a real ComfyUI, with the demo's VAE, text encoder and model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from .test_adapter_nodes import Prompt, node, training_prompt

ROOT = Path(__file__).resolve().parent.parent.parent
CATS = ROOT / "demo" / "subjects" / "cat"


@pytest.fixture
def pets(comfyui: Any) -> Iterator[Path]:
    """Three pictures of a cat, one of them 96 x 64 and one lying on its side; the first two have captions."""
    folder = comfyui.base / "input" / "pets"
    folder.mkdir()
    first, second, third = (Image.open(CATS / f"{number}.png").convert("RGB") for number in range(3))
    first.save(folder / "0.png")
    (folder / "0.txt").write_text("a cat at home", encoding="utf-8")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    second.resize((96, 64)).save(folder / "1.png", exif=exif)
    (folder / "1.caption").write_text("a [trigger] cat", encoding="utf-8-sig")
    third.resize((96, 64)).save(folder / "2.png")
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(comfyui.base / "user" / "deft_nodes" / "latents", ignore_errors=True)


def prepared(**changed: Any) -> Prompt:
    """The node "pictures" behind the demo's loaders."""
    inputs: dict[str, Any] = {
        "folder": "input/pets",
        "vae": ["vae", 0],
        "clip": ["clip", 0],
        "default_caption": "a cat",
        "trigger_word": "sks",
        "size": 64,
        "crop": "none",
        "flips": False,
        "model": ["model", 0],
    }
    loaders = {key: value for key, value in training_prompt().items() if key in ("model", "clip", "vae")}
    return loaders | {"pictures": node("DEFTPrepareTrainingPictures", **(inputs | changed))}


def listed(run: Any, slot: int) -> list[Any]:
    """A list that the node gave."""
    return list(run.outputs["pictures"][slot])


def test_what_the_folder_s_pictures_become(comfyui: Any, pets: Path) -> None:
    run = comfyui.run(prepared(), want=["pictures"])
    latents = listed(run, 0)
    assert [latent["original_sizes"] for latent in latents] == [[(64, 64)], [(64, 96)], [(96, 64)]]
    assert [latent["crops"] for latent in latents] == [[(0, 0)]] * 3
    heights = [latent["samples"].shape[-2] - latent["samples"].shape[-1] for latent in latents]
    assert heights[0] == 0
    assert heights[1] > 0  # it was turned
    assert heights[2] == -heights[1]
    assert listed(run, 2) == ["sks, a cat at home", "a sks cat", "sks, a cat"]
    assert run.text("pictures").startswith("3 of 3 files; 2.png has no caption, the default is used")
    assert "3 encoded, 0 kept from earlier runs" in run.text("pictures")
    assert run.text("pictures").endswith("0.png: sks, a cat at home\n1.png: a sks cat\n2.png: sks, a cat")
    (sheet,) = run.ui["pictures"]["images"]
    assert sheet["type"] == "temp"
    assert Image.open(comfyui.base / "temp" / sheet["filename"]).width > 3 * 160


def test_latents_and_captions_are_those_of_comfyui_s_nodes(comfyui: Any, pets: Path) -> None:
    prompt = prepared() | {
        "image": node("LoadImage", image="pets/0.png"),
        "encode": node("VAEEncode", pixels=["image", 0], vae=["vae", 0]),
        "text": node("CLIPTextEncode", text="sks, a cat at home", clip=["clip", 0]),
    }
    run = comfyui.run(prompt, want=["pictures", "encode", "text"])
    assert torch.equal(listed(run, 0)[0]["samples"], run.output("encode")["samples"])
    assert torch.equal(listed(run, 1)[0][0][0], run.output("text")[0][0])


def test_a_second_run_encodes_nothing_again(comfyui: Any, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.sd

    before = comfyui.run(prepared(), want=["pictures"])
    comfyui.reset()
    with monkeypatch.context() as patched:
        patched.setattr(comfy.sd.VAE, "encode", lambda *args: pytest.fail("encoded again"))
        again = comfyui.run(prepared(trigger_word="xyz"), want=["pictures"])
    assert "0 encoded, 3 kept from earlier runs" in again.text("pictures")
    for one, other in zip(listed(before, 0), listed(again, 0), strict=True):
        assert torch.equal(one["samples"], other["samples"])
    shutil.copy(CATS / "4.png", pets / "4.png")
    assert "1 encoded, 3 kept from earlier runs" in comfyui.run(prepared(), want=["pictures"]).text("pictures")


def test_what_is_left_out_is_said_by_name(comfyui: Any, pets: Path) -> None:
    (pets / "cut.png").write_bytes((pets / "0.png").read_bytes()[:800])
    Image.fromarray(np.array([[-1, 2]], dtype=np.float32)).save(pets / "float.tif")
    (pets / "lost.txt").write_text("no picture")
    shutil.copy(CATS / "3.png", pets / "empty.png")
    suffixes = comfyui.module("nodes.training_pictures").readable_suffixes()
    (pets / "IMG_5.heic").write_bytes(b"x")
    text = comfyui.run(prepared(), want=["pictures"]).text("pictures")
    assert text.startswith("4 of 7 files; ")
    assert ("IMG_5.heic cannot be read" if ".heic" in suffixes else "IMG_5.heic needs pillow-heif") in text
    assert "cut.png cannot be read as a picture (" in text
    assert "float.tif cannot be read as a picture (its numbers go from -1 to 2; floats are read" in text
    assert "2.png, empty.png have no caption, the default is used" in text
    assert "lost.txt: no picture of that name" in text


def test_the_thumbnails_have_no_blank_that_looks_like_a_missing_picture(comfyui: Any, pets: Path) -> None:
    """Five pictures in rows of four: behind the last one all is white, and a long caption is broken."""
    for number in (3, 4):
        shutil.copy(CATS / f"{number}.png", pets / f"{number}.png")
    (pets / "4.txt").write_text("a cat " + "on a long red sofa " * 20)
    (item,) = comfyui.run(prepared(), want=["pictures"]).ui["pictures"]["images"]
    sheet = Image.open(comfyui.base / "temp" / item["filename"]).convert("L")
    assert sheet.width < 5 * 160
    assert sheet.crop((sheet.width // 3, sheet.height // 2, sheet.width, sheet.height)).getextrema() == (255, 255)
    below = sheet.crop((0, sheet.height - 60, 160, sheet.height)).resize((1, 60), Image.Resampling.BOX)
    dark = [below.getpixel((0, row)) < 250 for row in range(60)]
    assert sum(now and not before for before, now in zip([False, *dark], dark, strict=False)) >= 3  # lines of text


def test_heic_is_read_with_pillow_heif(comfyui: Any, pets: Path) -> None:
    """A file as a phone writes it, by libheif's own encoder: read, turned, and named by the node like any other."""
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = Image.open(CATS / "3.png").convert("RGB")
    pillow_heif.from_pillow(photo).save(pets / "IMG_3.HEIC", quality=-1)  # without loss
    assert ".heic" in comfyui.module("nodes.training_pictures").readable_suffixes()
    shutil.copy(CATS / "3.png", pets / "IMG_4.png")
    run = comfyui.run(prepared(), want=["pictures"])
    assert run.text("pictures").startswith("5 of 5 files; ")
    heic, png = listed(run, 0)[-2:]
    assert heic["original_sizes"] == png["original_sizes"] == [photo.size[::-1]]
    assert (heic["samples"] - png["samples"]).abs().mean() < 0.1 * png["samples"].std()


def test_avif_is_read_where_pillow_can(comfyui: Any, pets: Path) -> None:
    if ".avif" not in comfyui.module("nodes.training_pictures").readable_suffixes():
        pytest.skip("this Pillow reads no AVIF")
    Image.open(CATS / "3.png").convert("RGB").save(pets / "3.avif")
    assert comfyui.run(prepared(), want=["pictures"]).text("pictures").startswith("4 of 4 files")


def test_repeats_flips_and_transparency(comfyui: Any, pets: Path) -> None:
    below = pets / "10_sks cat"
    below.mkdir()
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(below / "clear.png")
    Image.new("RGB", (64, 64), "white").save(pets / "white.png")
    run = comfyui.run(prepared(flips=True), want=["pictures"])
    captions, latents = listed(run, 2), listed(run, 0)
    assert len(captions) == len(latents) == len(listed(run, 1)) == 2 * (4 + 10)
    assert captions.count("sks cat") == 20
    clear = latents[captions.index("sks cat")]["samples"]
    assert torch.equal(clear, latents[6]["samples"])  # of white.png
    assert not torch.equal(latents[0]["samples"], latents[1]["samples"])
    assert "repeats: 28 latents of 10" in run.text("pictures")


def test_images_in_place_of_the_folder(comfyui: Any, pets: Path) -> None:
    extra = {"subject": node("DEFTDemoSubject", subject="cat", token="sks")}
    prompt = prepared(images=["subject", 0], image_captions=["subject", 1], crop="middle") | extra
    run = comfyui.run(prompt, want=["pictures", "subject"])
    assert listed(run, 2) == run.outputs["subject"][1]
    assert [latent["samples"].shape[0] for latent in listed(run, 0)] == [1] * 5
    assert run.text("pictures").startswith("5 of 5 images; the images are used")
    prompt["words"] = node("DEFTPrompts", prompts="a\nb", token="")
    prompt["pictures"]["inputs"]["image_captions"] = ["words", 0]
    failed = comfyui.fail(prompt, want=["pictures"])
    assert "There are 2 image_captions for 5 images" in str(failed)


@pytest.mark.parametrize("crop", ["none", "middle"])
def test_its_outputs_train(comfyui: Any, pets: Path, crop: str) -> None:
    prompt = training_prompt(
        latents=["pictures", 0], positive=["pictures", 1], captions=["pictures", 2], clip=["clip", 0], steps=3
    )
    run = comfyui.run(prompt | prepared(crop=crop), want=["train"])
    assert "3 pictures" in run.text("train")
    assert len(run.output("train", 1)["loss"]) == 3
    assert run.output("train").metadata["ss_tag_frequency"]


def test_bad_folders_are_errors_at_the_node(comfyui: Any, pets: Path) -> None:
    (pets / "2.txt").write_bytes("café".encode("latin-1"))
    assert "The caption 2.txt is not UTF-8" in str(comfyui.fail(prepared(), want=["pictures"]))
    (pets / "2.txt").unlink()
    failed = comfyui.fail(without_model(prepared(size=16)), want=["pictures"])
    assert "size 16 is too small: the sides of this base's pictures are multiples of 64 px" in str(failed)
    for number in range(3):
        (pets / f"{number}.png").write_bytes(b"no picture")
    failed = comfyui.fail(prepared(), want=["pictures"])
    assert "None of the pictures can be read" in str(failed)
    assert comfyui.pack_nodes["DEFTPrepareTrainingPictures"].fingerprint_inputs(["no such"]) == []


def without_model(prompt: Prompt) -> Prompt:
    """The node without the base."""
    del prompt["pictures"]["inputs"]["model"], prompt["model"]
    return prompt


def test_without_a_size_it_is_the_base_s(comfyui: Any, pets: Path) -> None:
    shutil.copy(CATS / "3.png", pets / "only.png")
    for number in range(3):
        (pets / f"{number}.png").unlink()
    text = comfyui.run(without_model(prepared(size=0)), want=["pictures"]).text("pictures")
    assert "sizes: 512 x 512 (1), for 512 px: no model" in text
    assert "only.png: smaller than the training size, scaled up" in text
    pictures_folder = comfyui.module("trainers.data.pictures_folder")
    assert pictures_folder.usual_size(comfyui.run(prepared(), want=["model"]).output("model").model) == 1024
    import comfy.supported_models

    classes = dir(comfy.supported_models)
    assert [
        start for start in pictures_folder.TRAINING_SIDES if not any(name.startswith(start) for name in classes)
    ] == []


def test_the_demo_s_folders_are_there_without_any_other(comfyui: Any) -> None:
    options = comfyui.pack_nodes["DEFTPrepareTrainingPictures"].GET_SCHEMA().inputs[0].options
    assert options[-1] == "demo/teddy_bear"
    assert options == sorted(options, key=lambda name: (name.startswith("demo/"), name))
    run = comfyui.run(prepared(folder="demo/teddy_bear"), want=["pictures"])
    assert listed(run, 2)[0] == "sks, a teddy bear on a green background"
    assert "sizes: 64 x 64 (5)\n" in run.text("pictures")
    failed = comfyui.fail(prepared(folder="demo/../models"), want=["pictures"])
    assert failed


def test_a_folder_of_folders_with_repeats_is_offered(comfyui: Any, pets: Path) -> None:
    above = pets / "set"
    (above / "3_dog").mkdir(parents=True)
    shutil.copy(CATS / "0.png", above / "3_dog" / "0.png")
    options = comfyui.pack_nodes["DEFTPrepareTrainingPictures"].GET_SCHEMA().inputs[0].options
    assert {"input/pets", "input/pets/set", "input/pets/set/3_dog"} <= set(options)
    run = comfyui.run(prepared(folder="input/pets/set"), want=["pictures"])
    assert listed(run, 2) == ["sks, dog"]
    assert "0.png has no caption, the folder's words are used" in run.text("pictures")
