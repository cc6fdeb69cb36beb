"""What lies beside adapters and pictures: records of LoRA managers, captions, pictures themselves."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from ..kit import Files, Reader
from ..mutation import chunk
from ..structures import JSON, SPECIAL_TEXTS, encoded, near, safetensors

ADAPTER = "a.safetensors"
_RECORDS: dict[str, Any] = {
    "a.metadata.json": {"civitai": {"trainedWords": ["sks", "dog, cat"]}, "trainedWords": ["x"]},
    "a.civitai.info": {"trainedWords": ["sks"]},
    "a.cm-info.json": {"TrainedWords": ["sks"]},
    "a.json": {"activation text": "sks, dog"},
}


def record_samples() -> list[Files]:
    """Each kind of record beside a file."""
    weights = safetensors({"x.deft_Q": torch.ones(2, 1)}, {"modelspec.trigger_phrase": "sks"})
    return [{ADAPTER: weights, name: encoded(value)} for name, value in _RECORDS.items()]


@st.composite
def record_structures(draw: Any) -> Files:
    """A record near those of the managers."""
    files = record_samples()[0]
    name = draw(st.sampled_from(list(_RECORDS)))
    del files["a.metadata.json"]
    return files | {name: encoded(draw(st.one_of(near(_RECORDS[name]), JSON)))}


def use_records(folder: Path) -> None:
    """Read the trigger words."""
    from deft_pack.deft_ops import trigger_words

    words = trigger_words.words_of(folder / ADAPTER)
    json.dumps(words)
    if words.notes:
        raise ValueError(" ".join(words.notes))


RECORDS = Reader("records_of_managers", record_samples, record_structures, use_records)


def _picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.new(mode, (12, 9)).save(target, kind, **options)
    return target.getvalue()


def picture_samples() -> list[Files]:
    """Pictures of the kinds that are read, each with its caption."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info, exif = PngInfo(), Image.Exif()
    info.add_text("prompt", '{"1": {"class_type": "KSampler", "inputs": {"seed": 5}}}')
    info.add_itxt("workflow", "ä" * 30, zip=True)
    exif[0x0112] = 6
    pictures = {
        "a.png": _picture("PNG", pnginfo=info),
        "b.png": _picture("PNG", "RGBA"),
        "c.png": _picture("PNG", "I;16"),
        "d.png": _picture("PNG", "P", transparency=0),
        "e.jpg": _picture("JPEG", exif=exif.tobytes()),
        "f.webp": _picture("WEBP"),
        "g.bmp": _picture("BMP"),
        "h.tif": _picture("TIFF"),
    }
    return [{name: content, f"{name[0]}.txt": "ein Hund, ä".encode()} for name, content in pictures.items()]


@st.composite
def picture_structures(draw: Any) -> Files:
    """A PNG file with chunks of texts that are none, and a caption in some encoding."""
    base = picture_samples()[0]["a.png"]
    place = 8 + 25
    chunks = b""
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(
            st.sampled_from(
                (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"gAMA", b"eXIf", b"acTL", b"iCCP", b"PLTE", b"tRNS", b"IHDR")
            )
        )
        chunks += chunk(
            kind,
            draw(
                st.one_of(st.binary(max_size=40), st.sampled_from((b"k\0\0x", b"k\0\1\0\0\0x", b"k", b"Exif\0\0MM\0*")))
            ),
        )
    caption = draw(st.sampled_from(SPECIAL_TEXTS)).encode(
        draw(st.sampled_from(("utf-8", "utf-16", "utf-8-sig"))), "replace"
    )
    return {
        "a.png": base[:place] + chunks + base[place:],
        "a.txt": draw(st.one_of(st.just(caption), st.binary(max_size=20))),
    }


def use_pictures(folder: Path) -> None:
    """Read the pictures and captions as Load Pictures of a Folder does, and the texts in them."""
    from deft_pack.nodes import folders

    real, folders.folder_of = folders.folder_of, lambda name: folder
    try:
        folders.DEFTLoadFolder.execute("x")
    finally:
        folders.folder_of = real


def size_of_pictures(folder: Path) -> int:
    """The bytes of the pictures without compression, four a pixel; none for what Pillow's limit refuses."""
    from PIL import Image

    size = 0
    for path in folder.iterdir():
        with suppress(Exception), Image.open(path) as picture:
            size += 4 * picture.width * picture.height
    return size


PICTURES = Reader("pictures", picture_samples, picture_structures, use_pictures, size=size_of_pictures)
