"""Texts in PNG files, beside what PIL reads and writes."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from deft_pack.sweeps.png import MAX_TEXT, read_text, with_text

from ..fuzz.mutation import chunk

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
TEXTS = {
    "deft_sweep": json.dumps({"cells": ["a"], "axes": {"prompt": "Ünïcode"}}),
    "latin": "Grüße\nzwei",
    "far": "写真 ✓",
    "empty": "",
    "workflow": "x" * 100_000,
}


def picture(mode: str) -> Image.Image:
    """7 x 5 pixels of noise."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (5, 7)).astype(np.uint16))
    return Image.fromarray(rng.integers(0, 256, (5, 7, 4)).astype(np.uint8), "RGBA").convert(mode)


def saved(image: Image.Image, **options) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG", **options)
    return target.getvalue()


def by_pil(data: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        return {key: str(value) for key, value in opened.text.items()}


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of each chunk, read by an own few lines."""
    place, parts = 8, []
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        parts.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return parts


@pytest.mark.parametrize("mode", MODES)
def test_pil_reads_what_is_set_and_the_pixels_stay(mode: str):
    image = picture(mode)
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", '{"1": {}}')
    data = saved(image, pnginfo=info)
    new = with_text(data, TEXTS)
    assert by_pil(new) == TEXTS | {"prompt": '{"1": {}}'}
    with Image.open(io.BytesIO(new)) as opened, Image.open(io.BytesIO(data)) as before:
        assert opened.mode == before.mode
        assert np.array_equal(np.asarray(opened), np.asarray(before))
    others = [one for one in chunks(new) if one[0] not in (b"tEXt", b"iTXt")]
    assert others == [one for one in chunks(data) if one[0] not in (b"tEXt", b"iTXt")]
    assert [kind for kind, _ in chunks(new)].index(b"iTXt") < [kind for kind, _ in chunks(new)].index(b"IDAT")
    kinds = {body.split(b"\0")[0].decode(): kind for kind, body in chunks(new) if kind in (b"tEXt", b"iTXt")}
    assert kinds == {key: b"iTXt" if key in ("far", "latin") else b"tEXt" for key in (*TEXTS, "prompt")}


@pytest.mark.parametrize("mode", MODES)
def test_what_pil_writes_is_read(mode: str):
    info = PngImagePlugin.PngInfo()
    info.add_text("plain", "a Grüße")
    info.add_text("packed", "b" * 5000, zip=True)
    info.add_itxt("far", "写真", "ja", "しゃしん")
    info.add_itxt("far packed", "写真" * 500, zip=True)
    data = saved(picture(mode), pnginfo=info)
    assert (
        read_text(data)
        == by_pil(data)
        == {"plain": "a Grüße", "packed": "b" * 5000, "far": "写真", "far packed": "写真" * 500}
    )
    assert read_text(saved(picture(mode))) == {}


def test_texts_are_replaced_whatever_form_they_had():
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "old")
    info.add_text("a", "old", zip=True)
    info.add_itxt("a", "old")
    info.add_text("ab", "stays")
    data = saved(picture("RGB"), pnginfo=info)
    once = with_text(data, {"a": "new"})
    assert read_text(once) == by_pil(once) == {"ab": "stays", "a": "new"}
    assert with_text(once, {"a": "new"}) == once
    assert [kind for kind, _ in chunks(once)].count(b"tEXt") == 2
    assert with_text(data, {}) == data
    back = with_text(with_text(once, {"a": "写"}), {"a": "new"})
    assert back == once


def test_texts_behind_the_pixels_are_seen_and_replaced():
    data = saved(picture("RGB"))
    late = data[:-12] + chunk(b"tEXt", b"late\0old") + data[-12:]
    assert read_text(late) == {"late": "old"}
    assert read_text(with_text(late, {"late": "new"})) == {"late": "new"}


def test_frames_of_an_animation_stay():
    frames = [picture("RGB"), Image.new("RGB", (7, 5), "red"), Image.new("RGB", (7, 5), "blue")]
    data = saved(frames[0], save_all=True, append_images=frames[1:])
    new = with_text(data, {"a": "b"})
    assert [one for one in chunks(new) if one[0] != b"tEXt"] == chunks(data)
    with Image.open(io.BytesIO(new)) as opened:
        assert opened.n_frames == 3


def test_every_cut_is_noticed():
    data = with_text(saved(picture("RGBA")), {"a": "b", "c": "写"})
    for length in range(len(data)):
        with pytest.raises(ValueError, match="PNG"):
            with_text(data[:length], {"x": "y"})
        with pytest.raises(ValueError, match="PNG"):
            read_text(data[:length])


def test_every_changed_byte_is_noticed_or_harmless():
    """One byte changed at each place: an error, never another picture or another exception."""
    data = with_text(saved(picture("L")), {"a": "b"})
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        with pytest.raises(ValueError):
            read_text(bytes(broken))


HEAD = b"\x89PNG\r\n\x1a\n"
IHDR = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
IDAT, IEND = chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        HEAD,
        b"\xff\xd8\xff\xe0" + b"\0" * 100,
        HEAD + struct.pack(">I", 2**32 - 1) + b"IHDR" + b"\0" * 20,  # a length of 4 GiB
        HEAD + IDAT + IEND,  # no header
        HEAD + IHDR + IEND,  # no pixels
        HEAD + IHDR + IDAT,  # no end
        HEAD + IHDR + IHDR + IDAT + IEND,
        HEAD + IHDR + chunk(b"\0\1\2\3", b"") + IDAT + IEND,
        HEAD + IHDR + IDAT[:-1] + b"\0" + IEND,  # a wrong checksum
    ],
    ids=range(11),
)
def test_no_png(data: bytes):
    for call in (lambda: with_text(data, {"a": "b"}), lambda: read_text(data)):
        with pytest.raises(ValueError, match="PNG"):
            call()


@pytest.mark.parametrize(
    "body",
    [
        (b"tEXt", b"no divider"),
        (b"zTXt", b"a\0\0not packed"),
        (b"zTXt", b"a\0\0" + zlib.compress(b"text")[:-3]),
        (b"iTXt", b"a\0\0\0"),
        (b"iTXt", b"a\0"),
        (b"iTXt", b"a\0\1\0\0\0not packed"),
        (b"iTXt", b"a\0\0\0\0\0\xff\xfe"),
        (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (MAX_TEXT + 1))),
    ],
    ids=range(8),
)
def test_damaged_texts(body: tuple[bytes, bytes]):
    data = HEAD + IHDR + chunk(*body) + IDAT + IEND
    with pytest.raises(ValueError):
        read_text(data)
    assert read_text(with_text(data, {"a": "new", "no divider": "x"})) == {"a": "new", "no divider": "x"}


def test_what_stands_behind_the_end_is_left_out():
    data = saved(picture("RGB"))
    assert with_text(data + b"<script>", {}) == data


@pytest.mark.parametrize("keyword", ["", "x" * 80, " a", "a ", "写", "a\0b", "a\nb", "ä"])
def test_bad_keywords(keyword: str):
    with pytest.raises(ValueError, match="keyword"):
        with_text(saved(picture("L")), {keyword: "x"})


def test_bad_texts():
    with pytest.raises(ValueError, match="zero"):
        with_text(saved(picture("L")), {"a": "x\0y"})
    with pytest.raises(ValueError):
        with_text(saved(picture("L")), {"a": "\ud800"})


def test_comfyui_reads_the_texts_as_pil_does():
    """ComfyUI's front end does so (getFromPngBuffer): tEXt and iTXt, both taken for UTF-8."""
    texts = {}
    for kind, body in chunks(with_text(saved(picture("RGB")), TEXTS)):
        if kind in (b"tEXt", b"iTXt"):
            keyword, rest = body.split(b"\0", 1)
            texts[keyword.decode()] = (rest[2:].split(b"\0", 2)[2] if kind == b"iTXt" else rest).decode()
    assert texts == TEXTS
