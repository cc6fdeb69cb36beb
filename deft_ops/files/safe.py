"""Safe reading and writing: whole files or a clear error message; temporary file in the same folder, then a rename."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...disk.errors import NotWritten, check_zero

# safetensors' own words, which were once camel case.
_REASONS = {
    "headertoosmall": "it is shorter than a header",
    "headertoolarge": "its header is larger than any real one, so it is a file of another kind",
    "invalidheaderlength": "its header reaches beyond its end, so it is cut off or of another kind",
    "incompletemetadata": "its tensors do not fill it exactly, so it is cut off",
    "metadataincompletebuffer": "its tensors do not fill it exactly, so it is cut off",
}


_MOST_TENSORS = 100_000  # a file of empty ones has a header only, and each costs time
_LARGEST_EMPTY = 1_000_000


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header metadata of a safetensors file, on the CPU.

    Raises FileNotFoundError if it is missing, ValueError if it is empty, cut off or not a safetensors file.
    """
    with _opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        for key, tensor in tensors.items():
            check_empty(tensor, key, path)
        return tensors, dict(file.metadata() or {})


def check_empty(tensor: Tensor, key: str, path: Path) -> None:
    """Raise ValueError for a tensor without values whose other sizes are large: what is made of it may have values."""
    if not tensor.numel() and max(tensor.shape, default=0) > _LARGEST_EMPTY:
        raise ValueError(f"{path} has {key} of shape {list(tensor.shape)}, which is damaged or hostile.")


def read_metadata(path: Path) -> dict[str, str]:
    """The header metadata of a safetensors file, without its tensors. Raises as `read_tensors`."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: check the name, or put the file there.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: download or save it again.")
    _check_count(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        message = str(error).replace(" ", "").lower()
        reason = next((text for word, text in _REASONS.items() if word in message), str(error))
        raise ValueError(f"{path} is not a readable safetensors file ({reason}): download or save it again.") from error
    except MemoryError as error:
        raise ValueError(
            f"{path} needs more memory than there is ({error}): close other programs, or check it."
        ) from error


def _check_count(path: Path) -> None:
    """Raise ValueError for a header of more tensors than any adapter has, before it is parsed: that takes ten times
    the memory."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100 << 20:  # safetensors refuses it
            return
        count = file.read(length).count(b'"data_offsets"')
    if count > _MOST_TENSORS:
        raise ValueError(f"{path} has {count:,} tensors, more than any adapter: it is damaged or of another kind.")


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError, its message naming the file, for one that is not in UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # Windows' editors write a mark of the encoding first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 (byte {error.start}): save it again as UTF-8.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: check the name, or put the file there.")
    return parse_json(read_text(path), str(path))


def parse_json(text: str, source: str) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError naming the source."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, and brackets too deep
        raise ValueError(f"{source} is not valid JSON ({error}): download or save it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{source} must hold a JSON object, not a {type(value).__name__}.")
    return value


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file; the same for the same tensors and metadata in every process."""
    # One copy each: the format refuses tensors that share memory.
    owned = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    data = save(owned, dict(metadata))
    # safetensors writes metadata in an order that differs from process to process.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_DAY = 24 * 60 * 60.0  # seconds; no write takes as long
_tidied: dict[str, float] = {}  # folders, and when


def _tidy(folder: Path) -> None:
    """Remove what writes that were killed have left in a folder: temporary files of this pack older than a day.

    Once a day in each process: an output folder may have a hundred thousand files.
    """
    now = time.time()
    if now - _tidied.get(str(folder), 0.0) < _DAY:
        return
    _tidied[str(folder)] = now
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                if now - entry.stat(follow_symlinks=False).st_mtime > _DAY:
                    os.unlink(entry)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder (made if missing): all of them complete in temporary files before any is renamed.

    What a killed write has left there a day ago or earlier is removed.

    Raises NotWritten, which is an OSError, with the name of the file and what to do; ValueError for a name with a zero
    character.
    """
    target = folder
    for name in contents:
        check_zero(folder / name)
    pending = {folder / name: folder / f".{name}.{uuid.uuid4().hex}.tmp" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        for target, temporary in pending.items():
            with temporary.open("wb") as file:
                file.write(contents[target.name])
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name with nothing in it
        for target, temporary in pending.items():
            os.replace(temporary, target)
    except OSError as error:
        raise NotWritten(error.errno, error.strerror or str(error), str(target)) from error
    finally:
        for temporary in pending.values():
            with contextlib.suppress(OSError):  # a name that is too long is none
                temporary.unlink(missing_ok=True)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file at once; on failure an older file of that name stays as it was."""
    write_files(path.parent, {path.name: to_bytes(tensors, metadata)})
