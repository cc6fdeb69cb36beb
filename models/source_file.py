"""The file that a ComfyUI model was loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def name_of_file(patcher: Any) -> str:
    """The name of the file of a ModelPatcher; empty where its loader does not record it.

    ComfyUI's loaders record how to load it again: the function, its arguments with the path as the first, and what of
    the result it is.
    """
    record = getattr(patcher, "cached_patcher_init", None)
    if not record or not record[1] or not isinstance(record[1][0], (str, Path)):
        return ""
    return Path(record[1][0]).name
