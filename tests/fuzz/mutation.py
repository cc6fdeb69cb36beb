"""Damage to bytes. What has lengths and checksums is opened first, so that the damage gets behind its door."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from pathlib import PurePath
from random import Random

from .kit import Files

_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"1e-320",
    b"4294967296",
    b"9223372036854775808",
    b"1e38",
    b"9" * 400,
    b"3.5",
    b"-0.0",
)
_WORDS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"x"',
    b"[[]]",
    b'{"a":1}',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"("',
    b"[" * 3000,
    b'"' + b"x" * 5000 + b'"',
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"../",
    b"\n",
    b"&a",
    b"*a",
    b"!!python/name:os.system",
)


def mutated(files: Files, random: Random) -> Files:
    """The files with one to four places damaged in one of them."""
    name = random.choice(list(files))
    content = files[name]
    codec = CODECS.get(PurePath(name).suffix.lower())
    if codec is not None and random.random() < 0.8:
        content = codec(content, random)
    else:
        content = damaged(content, random)
    return files | {name: content}


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes with one to four places damaged."""
    for _ in range(random.choice((1, 1, 2, 4))):
        data = random.choice(_DAMAGES)(data, random)
    return data


def _place(data: bytes, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _flip(data: bytes, random: Random) -> bytes:
    place = _place(data, random)
    return (
        data[:place] + bytes(byte ^ (1 << random.randrange(8)) for byte in data[place : place + 1]) + data[place + 1 :]
    )


def _cut(data: bytes, random: Random) -> bytes:
    return data[: _place(data, random)]


def _remove(data: bytes, random: Random) -> bytes:
    place = _place(data, random)
    return data[:place] + data[place + random.choice((1, 2, 8, 40)) :]


def _repeat(data: bytes, random: Random) -> bytes:
    place, length = _place(data, random), random.choice((1, 4, 16, 60))
    return data[:place] + data[place : place + length] * random.choice((2, 3, 20)) + data[place + length :]


def _insert(data: bytes, random: Random) -> bytes:
    place = _place(data, random)
    return data[:place] + random.choice((*_WORDS, random.randbytes(4))) + data[place:]


def _overwrite(data: bytes, random: Random) -> bytes:
    place = _place(data, random)
    value = struct.pack("<q", random.choice((0, 1, -1, 2**31, 2**40, 2**62, 255)))[: random.choice((1, 2, 4, 8))]
    return data[:place] + value + data[place + len(value) :]


def _number(data: bytes, random: Random) -> bytes:
    """One of the numbers that the text has becomes another one."""
    return _replaced(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", _NUMBERS, data, random)


def _word(data: bytes, random: Random) -> bytes:
    """A quoted word becomes another thing."""
    return _replaced(rb'"[^"]{0,60}"', _WORDS + _NUMBERS, data, random)


def _exchange(data: bytes, random: Random) -> bytes:
    """A word takes the place of another."""
    words = [match.span() for match in re.finditer(rb"[\w.]+", data[:20000])]
    if len(words) < 2:
        return data
    (a, b), (c, d) = random.sample(words, 2)
    return data[:a] + data[c:d] + data[b:]


def _replaced(pattern: bytes, by: tuple[bytes, ...], data: bytes, random: Random) -> bytes:
    matches = [match.span() for match in re.finditer(pattern, data[:20000])]
    if not matches:
        return data
    start, end = random.choice(matches)
    return data[:start] + random.choice(by) + data[end:]


_DAMAGES = (_flip, _cut, _remove, _repeat, _insert, _overwrite, _number, _number, _word, _word, _exchange)


def _safetensors(data: bytes, random: Random) -> bytes:
    """Damage to the header or to the data of a safetensors file, with the header's length as it is then."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.75:
        header = damaged(header, random)
    else:
        body = b"".join((body[: len(body) // 2], random.choice((b"\xff" * 8, bytes(8))), body[len(body) // 2 + 8 :]))
    return len(header).to_bytes(8, "little") + header + body


def _zip(data: bytes, random: Random) -> bytes:
    """Damage to a member of a zip file, which is whole around it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    programs = [name for name in members if name.endswith(".pkl")]
    name = random.choice(programs) if programs and random.random() < 0.8 else random.choice(list(members))
    if random.random() < 0.05:
        del members[name]
    else:
        members[name] = damaged(members[name], random)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def _png(data: bytes, random: Random) -> bytes:
    """Damage to a chunk of a PNG file, with its length and checksum as they are then."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return damaged(data, random)
    number = random.randrange(len(chunks))
    kind, body = chunks[number]
    chunks[number] = (
        random.choice((b"tEXt", b"zTXt", b"iTXt")) if random.random() < 0.3 else kind,
        damaged(body, random),
    )
    return data[:8] + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


CODECS = {".safetensors": _safetensors, ".pt": _zip, ".pth": _zip, ".bin": _zip, ".png": _png}
