"""Reading and writing adapter files. A format is one module here and one line in FORMATS."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ..adapter import Adapter, check_shapes, check_values, describe
from ..projectors import PROJECTORS
from . import native, peft
from .source import open_source

__all__ = ["FORMATS", "read"]

# The first whose matches(source) is true reads the file; native takes what is left.
FORMATS: tuple[ModuleType, ...] = (peft, native)


def read(path: str | Path, projector: str = "auto") -> Adapter:
    """Read an adapter from a .safetensors file or a PEFT folder, whatever its format.

    `projector` says how a stored P becomes Q: "auto" goes by the file's record, one of PROJECTORS overrides it.
    `metadata["file_format"]` names the format and `metadata["note"]` what had to be assumed, if anything.
    Raises FileNotFoundError or ValueError: one sentence that names the file, and the tensor where there is one.
    """
    if projector not in ("auto", *PROJECTORS):
        raise ValueError(f"Unknown projector {projector!r}: choose auto or one of {', '.join(PROJECTORS)}.")
    source = open_source(path)
    check_values(source.tensors, str(source.path))
    reader = next(module for module in FORMATS if module.matches(source))
    adapter: Adapter = reader.read(source, projector)
    check_shapes(adapter, str(source.path))
    adapter.metadata |= {**describe(adapter), "file_format": reader.NAME}
    return adapter
