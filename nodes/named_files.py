"""The file of a finished training under the name that its user chose, with a preview picture beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..deft_ops.files import native, safe
from ..scoring.pictures import to_pictures
from .saving import write_native
from .sockets import FOLDER

if TYPE_CHECKING:
    from ..trainers.run.loop import TrainingResult

SUFFIX = ".safetensors"
PICTURE = ".preview.png"  # LoRA managers and ComfyUI's own list of models look for this one first
LONGEST = 200  # bytes of a part of the name: file systems take 255, and suffixes and temporary names are added
_NOT_IN_NAMES = '<>:"|?*'  # Windows has no such files


def named_path(name: str) -> Path | None:
    """The path in models/loras of a name, without suffix; None for an empty one.

    Raises:
        ValueError: a name that leads out of the folder or that not every system has as a file.
    """
    name = name.strip().replace("\\", "/").removesuffix(SUFFIX)
    if not name:
        return None
    for part in name.split("/"):
        if (
            not part
            or part.startswith(".")
            or part != part.strip().rstrip(".")
            or len(part.encode()) > LONGEST
            or any(letter in _NOT_IN_NAMES or not letter.isprintable() for letter in part)
        ):
            raise ValueError(
                f"The name {name!r} is not one of a file within models/loras: use letters and digits, as in rex, or "
                "with a folder, as in dogs/rex."
            )
    return Path(folder_paths.get_folder_paths(FOLDER)[0]) / name


def write_named(result: TrainingResult, path: Path) -> list[str]:
    """Write the adapter, and its last preview if it has one; returns lines for the report.

    A file of another run is left, and a number is added to the name. What the disk refuses is a warning, for the
    training is done.
    """
    path = own_path(path, result.mark)
    file = path.with_name(path.name + SUFFIX)
    lines = _guarded(
        lambda: _wrote(write_native(result.adapter, path, result.mark)),
        f"the adapter could not be written to {file}",
        "it is in the output `adapter`, so nothing is lost: free some space or choose another name and connect Save "
        "Adapter, or run again",
    )
    if result.pictures and file.is_file():
        lines += _guarded(lambda: _write_picture(result, path), f"the preview could not be written beside {file}", "")
    return lines


def own_path(path: Path, mark: str) -> Path:
    """The path itself, or with the first number after it, at which there is no file or one of the run of this mark."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
        file = candidate.with_name(candidate.name + SUFFIX)
        if not file.exists() or _run_of(file) == mark:
            return candidate
    raise AssertionError


def _run_of(file: Path) -> str:
    try:
        return safe.read_metadata(file).get(native.RUN, "")
    except (OSError, ValueError):
        return ""  # no file of ours


def _wrote(file: Path) -> str:
    return f"written to {file}"


def _write_picture(result: TrainingResult, path: Path) -> str:
    """The first of the last previews as PNG; a picture that is not of this run is left."""
    file = path.with_name(path.name + PICTURE)
    if file.exists() and not _is_own_picture(file, result.mark):
        return f"the picture {file.name} beside it is not of this run and was left"
    info, data = PngInfo(), BytesIO()
    info.add_text(native.RUN, result.mark)
    to_pictures(result.pictures[-1][1][:1])[0].save(data, "PNG", pnginfo=info)
    safe.write_files(file.parent, {file.name: data.getvalue()})
    return f"with its last preview, {file.name}"


def _is_own_picture(file: Path, mark: str) -> bool:
    try:
        with Image.open(file) as picture:
            return bool(picture.info.get(native.RUN) == mark)
    except OSError:
        return False


def _guarded(write: Callable[[], str], failure: str, advice: str) -> list[str]:
    try:
        return [write()]
    except OSError as error:
        text = f"{failure} ({error.strerror or error})" + (f": {advice}" if advice else "")
        logging.warning(text)
        return [f"WARNING: {text}"]
