"""What an input takes of memory: the process' peak from one moment on, less what it used then."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

SLACK = 32 << 20  # bytes that Python and C may keep for later: what is used next is taken of them, and not seen
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Memory:
    """The memory of this process. Only Linux can forget a peak; elsewhere an input hides below an earlier one's."""

    def __init__(self) -> None:
        self.resets = _CLEAR.exists()
        self.kept = 0  # bytes in use when all that could be given back was

    def start(self) -> int:
        """The bytes from which the next input is counted."""
        if not self.resets:
            return self.peak()
        if _status("VmRSS") > self.kept + SLACK:
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
                ctypes.CDLL(None).malloc_trim(0)
            self.kept = _status("VmRSS")
        _CLEAR.write_text("5")
        return _status("VmRSS")

    def peak(self) -> int:
        """The most bytes since the start."""
        if self.resets:
            return _status("VmHWM")
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used << 10


def _status(name: str) -> int:
    """The bytes of an entry of Linux's account of this process."""
    matched = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert matched is not None
    return int(matched[1]) << 10
