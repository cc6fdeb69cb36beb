"""Files that are written whole or not at all: under another name first, then renamed."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ..disk.errors import named

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
LEFT = 24 * 60 * 60.0  # seconds after which a temporary file is one that a killed process has left


def write(path: Path, content: bytes) -> Path:
    """Write a file at once: a reader sees the old one or the new one. Its folder is made. Returns the path.

    Raises NotWritten, which is an OSError.
    """
    part = _part(path)
    with named(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(part, content)
            os.replace(part, path)
        finally:
            with suppress(OSError):  # a name that is too long is none
                part.unlink(missing_ok=True)
    return path


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait for the disk; or a power cut could leave its name with nothing behind it.

    Raises NotWritten, which is an OSError.
    """
    with named(path):
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file that was written is on the disk."""
    with named(path), open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file (UTF-8) to write into, which takes its name when all is written, and is dropped on an error."""
    part = _part(path)
    with named(path):
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                yield file
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make target the same file as source (a hard link), or a copy of it where the file system cannot do that.

    Raises NotWritten, which is an OSError; another OSError where the source cannot be read.
    """
    if target.exists():
        new, old = source.stat(), target.stat()
        if os.path.samestat(new, old) or (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns):
            return
    part = _part(target)
    with named(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, part)
            except FileNotFoundError as error:  # it names both files
                raise FileNotFoundError(error.errno, error.strerror, str(source)) from None
            except OSError:
                shutil.copy2(source, part)
            os.replace(part, target)
        finally:
            with suppress(OSError):  # a name that is too long is none
                part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def tidy(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder."""
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if TEMPORARY.fullmatch(path.name)]:
            if path.is_file() and is_left(path):
                path.unlink()


def is_left(path: Path) -> bool:
    """Whether nothing has been written there for so long that nobody is going to."""
    return time.time() - path.lstat().st_mtime > LEFT
