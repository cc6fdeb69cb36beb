"""A folder of training pictures: files, captions, repeats, buckets, fits; and latents that are kept."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from deft_pack.trainers.data.kept_latents import keep_latent, kept_latent, key_of, vae_hash
from deft_pack.trainers.data.pictures_folder import (
    Fit,
    buckets,
    fit,
    least_repeats,
    listing,
    own_caption,
    side_multiple,
    usual_size,
    with_trigger,
)

SUFFIXES = (".png", ".jpg")


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """Three of the demo's pictures of a cat, two of which have a caption; others in folders with repeats."""
    place = tmp_path / "pets"
    for below, numbers in {"": (0, 1, 2), "10_sks cat": (3,), "5_dog": (4,), "rest": (0,), "0_none": (1,)}.items():
        (place / below).mkdir(exist_ok=True, parents=True)
        for number in numbers:
            shutil.copy(root / "demo" / "subjects" / "cat" / f"{number}.png", place / below / f"{number}.png")
    (place / "0.txt").write_text("a cat at home\n")
    (place / "1.caption").write_bytes(b"\xef\xbb\xbfune caf\xc3\xa9")
    return place


def test_files_captions_and_repeats(folder: Path) -> None:
    result = listing(folder, SUFFIXES)
    assert [(file.path.name, file.repeats, file.words) for file in result.files] == [
        ("0.png", 1, ""),
        ("1.png", 1, ""),
        ("2.png", 1, ""),
        ("3.png", 10, "sks cat"),
        ("4.png", 5, "dog"),
    ]
    assert [own_caption(file.path) for file in result.files] == ["a cat at home", "une café", "", "", ""]
    assert result.unreadable == []
    assert result.notes == [
        "folder 0_none is not read: its repeats are 0",
        "folder rest is not read: name it 1_rest to read it",
    ]


def test_a_folder_with_repeats_alone_has_its_words(folder: Path) -> None:
    (file,) = listing(folder / "10_sks cat", SUFFIXES).files
    assert (file.repeats, file.words) == (1, "sks cat")


def test_what_is_left_out_is_named(folder: Path) -> None:
    (folder / "IMG_5.HEIC").write_bytes(b"x")
    (folder / "IMG_5.txt").write_text("its caption")
    (folder / "lost.txt").write_text("no picture")
    (folder / "0.jpg").write_bytes(b"x")
    (folder / ".hidden.png").write_bytes(b"x")
    result = listing(folder, SUFFIXES)
    assert result.unreadable == ["IMG_5.HEIC needs pillow-heif"]
    assert "lost.txt: no picture of that name" in result.notes
    assert "two pictures are named 0 and share their caption" in result.notes
    assert len(result.files) == 6
    assert "IMG_5.HEIC" in [file.path.name for file in listing(folder, (*SUFFIXES, ".heic")).files]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "The folder 'none' is empty: put pictures there"),
        (["a.txt"], "holds no picture that can be read .a.txt: no picture of that name.: put pictures there"),
        (["a.heic"], "holds no picture that can be read .a.heic needs pillow-heif."),
    ],
)
def test_a_folder_without_pictures(tmp_path: Path, files: list[str], words: str) -> None:
    (tmp_path / "none").mkdir()
    for name in files:
        (tmp_path / "none" / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=words):
        listing(tmp_path / "none", SUFFIXES)


@pytest.mark.parametrize(
    ("text", "encoding"), [("café", "latin-1"), ("a dog", "utf-16"), ("a dog", "utf-16-le"), ("花园里的狗", "gbk")]
)
def test_a_caption_in_another_encoding_is_an_error(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"The caption a.txt is not UTF-8 .*: save it again"):
        own_caption(tmp_path / "a.png")


def test_an_empty_caption_is_none_and_the_next_kind_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    assert own_caption(tmp_path / "a.png") == ""
    (tmp_path / "a.caption").write_text("a dog")
    assert own_caption(tmp_path / "a.png") == "a dog"
    (tmp_path / "b.TXT").write_text("a cat")
    assert own_caption(tmp_path / "b.png") == "a cat"


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("a dog", "sks", "sks, a dog"),
        ("a sks dog", "sks", "a sks dog"),
        ("many sksy dogs", "sks", "sks, many sksy dogs"),
        ("一只sks狗", "sks", "一只sks狗"),
        ("a [trigger] dog", " sks ", "a sks dog"),
        ("a [trigger] dog", "", "a dog"),
        ("", "sks", "sks"),
        ("a dog", "", "a dog"),
    ],
)
def test_trigger_word(caption: str, trigger: str, expected: str) -> None:
    assert with_trigger(caption, trigger) == expected


def test_least_repeats() -> None:
    assert least_repeats([20, 10, 10]) == [2, 1, 1]
    assert least_repeats([40]) == [1]
    assert least_repeats([3, 2]) == [3, 2]


def test_buckets_of_sdxl() -> None:
    """Buckets have the sizes that SDXL was trained in (arXiv 2307.01952, appendix I) with sides up to twice 1024."""
    sizes = set(buckets(1024, 64))
    assert {(1024, 1024), (1152, 896), (832, 1216), (768, 1344), (1536, 640), (1856, 512)} <= sizes
    assert all(w % 64 == 0 and h % 64 == 0 and w * h <= 1024**2 and max(w, h) <= 2048 for w, h in sizes)


def test_a_size_below_the_multiple() -> None:
    with pytest.raises(ValueError, match="size 32 is too small: .* multiples of 64 px"):
        buckets(32, 64)


def test_cropped_in_the_middle() -> None:
    """A picture of three stripes: what stands over goes away on both sides alike."""
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    how = fit(300, 100, 64, 64, "middle")
    assert how == Fit((192, 64), (64, 0), (64, 64))
    assert np.asarray(how(Image.fromarray(pixels)))[:, 4:-4].min() > 250


def test_each_picture_comes_in_the_bucket_of_its_shape() -> None:
    assert fit(3000, 2000, 1024, 64, "middle").size == (1216, 832)
    assert fit(2000, 3000, 1024, 64, "middle").size == (832, 1216)
    assert fit(500, 500, 1024, 64, "middle") == Fit((1024, 1024), (0, 0), (1024, 1024))


@pytest.mark.parametrize("shape", [(640, 480), (10, 4000), (4000, 10), (1, 1), (333, 777)])
@pytest.mark.parametrize("crop", ["middle", "none"])
def test_every_fit_is_whole(shape: tuple[int, int], crop: str) -> None:
    how = fit(*shape, 256, 32, crop)
    assert how.size[0] % 32 == how.size[1] % 32 == 0
    assert min(how.size) >= 32
    assert all(
        left >= 0 and left + side <= whole for left, side, whole in zip(how.corner, how.size, how.scaled, strict=True)
    )
    if crop == "none":
        scale = 256 / math.sqrt(shape[0] * shape[1])
        assert how.scaled == how.size
        assert all(abs(new - scale * old) <= 32 for new, old in zip(how.size, shape, strict=True))
    else:
        assert how.scaled[0] / how.scaled[1] == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert how(Image.new("RGB", shape)).size == how.size


def test_an_unknown_crop() -> None:
    with pytest.raises(ValueError, match="crop must be one of middle, none"):
        fit(64, 64, 64, 64, "left")


@pytest.mark.parametrize(
    ("pixels", "patch", "config", "multiple"),
    [
        (8, 2, {}, 16),  # Flux.1, SD3
        (8, (1, 2, 2), {}, 16),  # Wan 2.1
        (16, 1, {}, 16),  # Flux.2
        (8, None, {"channel_mult": [1, 2, 4, 4]}, 64),  # SD 1.5
        (8, None, {"channel_mult": [1, 2, 4]}, 32),  # SDXL
        (32, None, {}, 32),
    ],
)
def test_sides_of_a_base(pixels: int, patch: object, config: dict, multiple: int) -> None:
    network = SimpleNamespace() if patch is None else SimpleNamespace(patch_size=patch)
    model = SimpleNamespace(diffusion_model=network, model_config=SimpleNamespace(unet_config=config))
    assert side_multiple(pixels, model) == multiple
    assert side_multiple(pixels) == 64


@pytest.mark.parametrize(
    ("name", "predicts", "side"),
    [
        ("SD15", "EPS", 512),
        ("SD20", "EPS", 512),
        ("SD20", "V_PREDICTION", 768),
        ("SDXL", "EPS", 1024),
        ("SDXL", "V_PREDICTION", 1024),
        ("Flux", "FLUX", 1024),
        ("QwenImage", "FLUX", 1024),
        ("WAN21_T2V", "FLOW", 632),
        ("WAN21_Vace", "FLOW", 640),
        ("Kandinsky5Image", "FLOW", 1024),
        ("Kandinsky5", "FLOW", 768),
        ("SD15_instructpix2pix", "EPS", 512),
        ("Lens", "FLOW", 1024),
        ("LTXV", "FLOW", 768),
    ],
)
def test_size_of_a_base(name: str, predicts: str, side: int) -> None:
    model = SimpleNamespace(model_config=type(name, (), {})(), model_type=SimpleNamespace(name=predicts))
    assert usual_size(model) == side
    assert usual_size() == 512


def test_a_latent_is_kept_by_what_it_is_made_of(tmp_path: Path) -> None:
    one, other = Fit((64, 64), (0, 0), (64, 64)), Fit((96, 64), (16, 0), (64, 64))
    keys = {key_of("a", one, False, "v"), key_of("b", one, False, "v"), key_of("a", other, False, "v")}
    keys |= {key_of("a", one, True, "v"), key_of("a", one, False, "w")}
    assert len(keys) == 5
    key, latent = key_of("a", one, False, "v"), torch.rand(1, 4, 8, 8).half()
    assert kept_latent(tmp_path / "new", key) is None
    keep_latent(tmp_path / "new", key, latent)
    again = kept_latent(tmp_path / "new", key)
    assert again is not None
    assert again.dtype == torch.float16
    assert torch.equal(again, latent)
    file = tmp_path / "new" / f"{key}.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert kept_latent(tmp_path / "new", key) is None


def test_hash_of_a_vae() -> None:
    state = {"a": torch.rand(100, 100), "b": torch.rand(3, dtype=torch.bfloat16)}
    same = {name: value.clone() for name, value in reversed(state.items())}
    assert vae_hash(state) == vae_hash(same)
    same["b"][1] += 1
    assert vae_hash(state) != vae_hash(same)
    assert vae_hash({"a": state["a"] * 1.001, "b": state["b"]}) != vae_hash(state)
