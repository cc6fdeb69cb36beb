"""The file of a finished training under the name that its user chose, with a preview picture beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..deft_ops.files import native, safe
from ..disk.errors import advice
from ..scoring.pictures import to_pictures
from .saving import write_native
from .sockets import ADAPTER_FOLDER

if TYPE_CHECKING:
    from ..trainers.run.loop import TrainingResult

_SUFFIX = ".safetensors"
_PICTURE = ".preview.png"  # LoRA managers and ComfyUI's own list of models look for this one first


def named_file(name: str) -> Path | None:
    """The file of a name in the first folder for LoRAs; None for an empty one.

    Raises:
        ValueError: another folder for LoRAs has a file of this name, which loaders would no longer find.
    """
    if not name:
        return None
    own, *others = (Path(folder) / f"{name}{_SUFFIX}" for folder in folder_paths.get_folder_paths(ADAPTER_FOLDER))
    for file in others:
        if file.exists() and file.parent.resolve() != own.parent.resolve():
            raise ValueError(
                f"The file {file} already exists, and loaders would find {own} in its place: choose another name."
            )
    return own


def write_named(result: TrainingResult, file: Path) -> list[str]:
    """Write the adapter, and its last preview if it has one; returns lines for the report.

    What the disk refuses is a warning, for the training is done. So is a file of another run that has come meanwhile.
    """
    from ..trainers.run.finished import is_made, mark_of

    if result.file is not None and is_made(file, result.mark, result.adapter.metadata):
        return [f"it is in {file}"]
    if file.exists() and mark_of(file) != result.mark:
        return [_warned(f"{file} was created meanwhile and was not replaced: choose another name; {_ADVICE}")]
    stem = file.with_suffix("")
    lines = _guarded(
        lambda: f"written to {write_native(result.adapter, stem, result.mark)}",
        f"the adapter could not be written to {file}",
        f"; {_ADVICE}",
    )
    if result.pictures and file.is_file():
        picture = stem.with_name(stem.name + _PICTURE)
        lines += _guarded(lambda: _write_picture(result, picture), f"the preview could not be written to {picture}")
    return lines


_ADVICE = "the adapter is in the output `adapter`, so nothing is lost: connect Save Adapter, or run again"


def _write_picture(result: TrainingResult, file: Path) -> str:
    """The first of the last previews as PNG; a picture that is not of this run is left."""
    if file.exists() and not _is_own_picture(file, result.mark):
        return f"the picture {file.name} beside it is not from this run and was kept"
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


def _guarded(write: Callable[[], str], failure: str, more: str = "") -> list[str]:
    try:
        return [write()]
    except OSError as error:
        return [_warned(f"{failure} ({error.strerror or error}): {advice(error)}{more}")]


def _warned(text: str) -> str:
    logging.warning(text)
    return f"WARNING: {text}"
