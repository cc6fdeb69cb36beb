"""A file that one process at a time holds, as the sign that it is at work beside it.

The system's own lock: it goes with the process, however that ends, so that none has to be removed by hand.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_FAR = 1 << 30  # the byte that Windows locks: nobody may read a locked one, and the owner is to be read


class Held(ValueError):
    """Another process holds the file. owner: "process 12 on machine"."""

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(f"{path} is held by {owner}.")
        self.path, self.owner = path, owner


@contextmanager
def holding(path: Path, patience: float = 0.0) -> Iterator[None]:
    """A context in which this process holds the file, which is made, and removed afterwards.

    Where the file system has no locks, everybody may hold it.

    Args:
        path: the file; its folder is made.
        patience: seconds to wait for another holder.

    Raises:
        Held: another process, or another part of this one, holds it.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    while (file := _taken(path)) is None:
        if time.monotonic() >= end:
            raise Held(path, owner_of(path))
        time.sleep(0.05)
    with file:
        try:
            with suppress(OSError):  # a full disk
                file.write(json.dumps({"host": platform.node(), "pid": os.getpid()}).encode())
                file.flush()
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file: the next holder takes this one
                path.unlink()


def owner_of(path: Path) -> str:
    """The process that holds a file, as it has written itself down."""
    try:
        content = json.loads(path.read_bytes()[:1000])
        return f"process {int(content['pid'])} on {content['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _taken(path: Path) -> BinaryIO | None:
    """The file, locked; None while somebody else has it."""
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            if not _lock(file):
                file.close()
                return None
            if _is_there(path, file):
                file.truncate(0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has removed it meanwhile


def _is_there(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":

    def _lock(file: BinaryIO) -> bool:
        import msvcrt

        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def _lock(file: BinaryIO) -> bool:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # there are no locks on this file system
            return True
        return True
