"""What a generated picture was made from, as a mark in the file itself: a PNG's Description, a JPEG's comment.

A mark is a digest of the values, texts and workflow that the picture shows or is computed from, or the text itself
where that is short. The code that computes and draws is not in it. A picture is outdated where its mark is another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from comfy_server import ROOT
from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_KEYWORD = b"Description\0"  # of the PNG's text
COMMENT, APPLICATION = 0xFE, range(0xE0, 0xF0)  # JPEG's segments


def digest(*sources: Any) -> str:
    """The mark of these sources, which JSON can hold; the order of an object's members does not matter."""
    text = json.dumps(sources, sort_keys=True, ensure_ascii=False)
    return f"made from {hashlib.sha256(text.encode()).hexdigest()}"


def mark_of(path: Path) -> str:
    """The mark in a picture; empty where there is no picture, or none in it."""
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        comment = picture.info.get("comment", b"").decode("utf-8", "replace")
        return str(picture.info.get("Description", comment))


def outdated(marks: Mapping[Path, str]) -> list[Path]:
    """The pictures that are missing or have another mark. marks: what should be in each."""
    return [path for path, mark in marks.items() if mark_of(path) != mark]


def marked(picture: bytes, mark: str) -> bytes:
    """A PNG or JPEG file with this mark in place of any other; its pixels stay as they are encoded."""
    if picture.startswith(PNG):
        text = _KEYWORD + mark.encode("latin-1")
        chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
        head, *others = (part for part in _chunks(picture) if not part[4:].startswith(b"tEXt" + _KEYWORD))
        return PNG + head + chunk + b"".join(others)
    if not picture.startswith(JPEG):
        raise ValueError("a mark can be written into a PNG or a JPEG only, and this is neither")
    text = mark.encode()
    comment = b"\xff" + struct.pack(">BH", COMMENT, len(text) + 2) + text
    segments = [part for part in _segments(picture) if part[1] != COMMENT]
    place = sum(part[1] in APPLICATION for part in segments)  # JFIF's segment has to be the first
    return JPEG + b"".join([*segments[:place], comment, *segments[place:]])


def _chunks(picture: bytes) -> Iterator[bytes]:
    """The chunks of a PNG, each with its length, name and checksum."""
    start = len(PNG)
    while start < len(picture):
        end = start + 12 + int.from_bytes(picture[start : start + 4], "big")
        yield picture[start:end]
        start = end


def _segments(picture: bytes) -> Iterator[bytes]:
    """The segments of a JPEG before its scan, and all the rest as one."""
    start = len(JPEG)
    while picture[start + 1] != 0xDA:
        end = start + 2 + int.from_bytes(picture[start + 2 : start + 4], "big")
        yield picture[start:end]
        start = end
    yield picture[start:]


def write(path: Path, picture: bytes, mark: str) -> None:
    """Write a PNG or JPEG file with its mark, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(marked(picture, mark))
    os.replace(part, path)
    print(f"[pictures] wrote {path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def chosen(marks: Mapping[Path, str], names: Collection[str]) -> dict[Path, str]:
    """The pictures whose files have these names, without their endings; all without names."""
    if unknown := set(names) - {path.stem for path in marks}:
        raise SystemExit(f"[pictures] there is no {', '.join(sorted(unknown))}")
    return {path: mark for path, mark in marks.items() if not names or path.stem in names}
