"""Texts in PNG files: read, and set without touching the picture's own data."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
MAX_TEXT = 64 * 2**20  # bytes that all compressed texts may have: a small file can hold huge ones


class Chunk(NamedTuple):
    """A chunk of a PNG file. kind: its four letters. body: its data. whole: all from its length to its checksum."""

    kind: bytes
    body: bytes
    whole: bytes


def with_text(data: bytes, texts: Mapping[str, str]) -> bytes:
    """The PNG file with these texts by keyword; texts that it already has under them are replaced, others stay.

    All other chunks stay byte for byte. A text of ASCII becomes a tEXt chunk, another an iTXt chunk, which is UTF-8;
    both stand before the pixels. PNG's tEXt is Latin-1, but ComfyUI's front end takes it for UTF-8: it is ASCII that
    both read alike.
    Raises ValueError for what is no PNG or is cut off, and for a keyword or a text that PNG cannot hold.
    """
    new = [_text_chunk(keyword, text) for keyword, text in texts.items()]
    old = {keyword.encode() for keyword in texts}
    parts = [SIGNATURE]
    for chunk in _chunks(data):
        if chunk.kind == b"IDAT" and new:
            parts, new = [*parts, *new], []
        if chunk.kind not in _TEXTS or chunk.body.split(b"\0", 1)[0] not in old:
            parts.append(chunk.whole)
    return b"".join(parts)


def read_text(data: bytes) -> dict[str, str]:
    """All texts of a PNG file by keyword; of several under one keyword the last.

    Raises ValueError for what is no PNG or is cut off, and for a damaged text.
    """
    texts = {}
    room = MAX_TEXT
    for chunk in _chunks(data):
        if chunk.kind in _TEXTS:
            keyword, divider, content = chunk.body.partition(b"\0")
            if not divider:
                raise ValueError("a text of the PNG file has no keyword; save the picture again.")
            text = _content(chunk.kind, content, room)
            room -= 0 if chunk.kind == b"tEXt" else len(text)
            texts[keyword.decode("latin-1")] = text
    return texts


def _chunks(data: bytes) -> Iterator[Chunk]:
    """All chunks up to IEND; what stands behind it belongs to no picture and is skipped. Checks every checksum."""
    if not data.startswith(SIGNATURE):
        raise ValueError("this is not a PNG file.")
    place, pixels = len(SIGNATURE), False
    while True:
        if len(data) - place < 12:
            raise ValueError("the PNG file is cut off; make or copy it again.")
        length, kind = struct.unpack_from(">I4s", data, place)
        if not re.fullmatch(rb"[A-Za-z]{4}", kind) or (place == len(SIGNATURE)) != (kind == b"IHDR"):
            raise ValueError(f"the PNG file is damaged at byte {place}; make or copy it again.")
        end = place + 12 + length
        if end > len(data):
            raise ValueError("the PNG file is cut off; make or copy it again.")
        body = data[place + 8 : end - 4]
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"the PNG file is damaged: the checksum at byte {place} is wrong; make or copy it again.")
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND" and not pixels:
            raise ValueError("the PNG file holds no pixels; make or copy it again.")
        yield Chunk(kind, body, data[place:end])
        if kind == b"IEND":
            return
        place = end


def _text_chunk(keyword: str, text: str) -> bytes:
    """A whole tEXt or iTXt chunk."""
    if not (keyword.isascii() and keyword.isprintable() and keyword == keyword.strip() and 1 <= len(keyword) <= 79):
        raise ValueError(f"{keyword!r} is no keyword of a PNG text here: 1 to 79 printable ASCII characters.")
    name = keyword.encode()
    if "\0" in text:
        raise ValueError(f"the text of {keyword} holds a zero character, which PNG cannot.")
    kind, between = (
        (b"tEXt", b"\0") if text.isascii() else (b"iTXt", b"\0\0\0\0\0")
    )  # not compressed, no language, no translated keyword
    body = name + between + text.encode()
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _content(kind: bytes, content: bytes, room: int) -> str:
    """The text of a chunk from what follows its keyword. Raises ValueError where it is damaged."""
    if kind == b"tEXt":
        return content.decode("latin-1")
    if kind == b"zTXt":
        return _inflated(content[1:], room).decode("latin-1")
    parts = content[2:].split(b"\0", 2)  # language, translated keyword, text
    if len(parts) < 3:
        raise ValueError("a text of the PNG file is damaged; save the picture again.")
    return (_inflated(parts[2], room) if content[0] else parts[2]).decode()


def _inflated(packed: bytes, room: int) -> bytes:
    """Raises ValueError for a damaged text, and for one of more bytes than `room`."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, max(1, room))
    except zlib.error as error:
        raise ValueError(f"a text of the PNG file is damaged ({error}); save the picture again.") from error
    if not unpacker.eof:
        raise ValueError(
            f"a text of the PNG file is cut off, or the texts are longer than {MAX_TEXT:,} bytes together."
        )
    return text
