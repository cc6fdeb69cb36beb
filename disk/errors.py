"""Errors of files: each has the name of the file, the system's own words, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SPACE, _RIGHTS = "free some space, or choose another place", "choose a folder that may be written to"
_OTHER_NAME = "a file has the name of the folder, choose another"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    getattr(errno, "EDQUOT", errno.ENOSPC): _SPACE,  # not on every system
    errno.EFBIG: _SPACE,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: _OTHER_NAME,
    errno.ENOTDIR: _OTHER_NAME,
    errno.EISDIR: "a folder has this name, choose another",
}


class NotWritten(OSError):
    """An error of the disk or of a name, with the file's name and what to do. `strerror` is the system's own text."""

    def __str__(self) -> str:
        """The error message."""
        return f"{self.filename} could not be written ({self.strerror}): {advice(self)}."


def described(error: BaseException) -> str:
    """The text of any error: a system's own error of a file has the file's name, the system's words and what to do."""
    if isinstance(error, NotWritten) or not isinstance(error, OSError) or error.filename is None:
        return str(error)
    if error.errno not in _ADVICE:
        return str(error)
    what = "check its permissions" if error.errno in (errno.EACCES, errno.EPERM) else advice(error)  # read or written
    return f"{error.filename}: {error.strerror}: {what}."


def reason(error: Exception) -> str:
    """Why a file cannot be read, without its name: the system's own words, or what the content's reader says."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def advice(error: OSError) -> str:
    """What to do about an error of writing a file, as the end of a sentence."""
    return _ADVICE.get(error.errno or 0, "check the folder and its disk")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """The system's errors while a file is written, as NotWritten: those of writing and of waiting for the disk have no
    name, and none of them says what to do.

    Those of files elsewhere are raised as they are. Raises ValueError for a name with a zero character.
    """
    check_zero(path)
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        if _is_elsewhere(error, path):
            raise
        raise NotWritten(error.errno, error.strerror or str(error), str(path)) from error


def _is_elsewhere(error: OSError, path: Path) -> bool:
    """Whether an error names files, and none that lies beside the path or above it."""
    names = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str)]
    return bool(names) and not any(name.parent in (path.parent, *path.parents) for name in names)


def check_zero(path: Path) -> None:
    """Raise ValueError for a name with a zero character, which no system takes."""
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} has a zero character: choose another name.")
