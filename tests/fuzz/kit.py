"""What a reader is to the fuzzer, and what becomes of one input: read well, refused as it should be, or a fault."""

from __future__ import annotations

import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .memory import Memory

ROOT = Path(__file__).resolve().parent.parent.parent
Files = dict[str, bytes]  # an input: names below a folder and their contents

SECONDS = 10  # of the processor that an input of up to 10 MB may take
MEMORY = 200 << 20  # bytes, beside four times the files' own size
LONGEST_MESSAGE = 4000  # characters: a file must not decide how long an error message is


_MEMORY = Memory()


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    samples: valid inputs, whose bytes are mutated. structures: a hypothesis strategy of inputs near valid ones. use:
    reads what lies in a folder, and goes one step further with what was read. It raises one of `refusals`, with a
    message that names a file, for what cannot be read. share: how often it has its turn beside the others. size: the
    bytes of what lies in a folder, where that is more than its files have.
    """

    name: str
    samples: Callable[[], list[Files]]
    structures: Callable[[], Any]
    use: Callable[[Path], None]
    refusals: tuple[type[BaseException], ...] = (ValueError, FileNotFoundError)
    share: int = 1
    size: Callable[[Path], int] = lambda folder: 0


@dataclass(frozen=True)
class Fault:
    """An input that was neither read nor refused as it should be. place: file, line, function, and what was raised."""

    place: str
    message: str


class TooSlow(BaseException):
    """An input took more than its time; no reader may take this for an error of the file."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise TooSlow when the body takes more than SECONDS."""

    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def lay(files: Files, folder: Path) -> None:
    """Write an input into a folder, which holds nothing else afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def outcome(reader: Reader, files: Files, folder: Path, limit: bool = True) -> str | Fault:
    """What becomes of an input: "read", "refused" or a Fault. limit: time and memory are measured."""
    lay(files, folder)
    before = _MEMORY.start()
    result: str | Fault = "read"
    try:
        with limited() if limit else nullcontext():
            reader.use(folder)
    except reader.refusals as error:
        reason = wrong_message(str(error), files)
        result = _fault(error, reason) if reason else "refused"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        result = _fault(error)
    grown = _MEMORY.peak() - before
    size = sum(map(len, files.values()))
    if limit and grown > MEMORY + 4 * size and grown > MEMORY + 4 * reader.size(folder):
        return Fault(f"{reader.name}: memory", f"{grown >> 20} MB for {size} bytes")
    return result


def wrong_message(message: str, files: Files) -> str:
    """What is wrong with an error message about these files; empty if nothing is."""
    if not any(part in message for name in files for part in Path(name).parts):
        return "names no file"
    if "\n" in message.strip():
        return "has several lines"
    return "is too long" if len(message) > LONGEST_MESSAGE else ""


def _fault(error: BaseException, reason: str = "") -> Fault:
    """The fault of an error. Its place is the innermost line of the pack's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(ROOT)) and not frame.filename.startswith(str(ROOT / "tests"))
    ]
    place = "outside of the pack"
    if frames:
        place = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno} {frames[-1].name}"
    what = f"{type(error).__name__}{f' whose message {reason}' if reason else ''}"
    return Fault(f"{place}: {what}", f"{str(error)[:300]}")
