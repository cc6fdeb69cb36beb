"""Reading and writing adapter files. A format is one module here and one line in FORMATS."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from .. import costs
from ..adapter import Adapter, check_shapes, check_values, describe
from ..projectors import READ_PROJECTORS
from ..wording import one_line
from . import (
    deft_omnigen,
    deft_sdxl,
    layer_patterns,
    native,
    para_authors,
    para_deft,
    peft,
    peft_tuners,
    svdiff,
)
from .peft_projector import WeightOf
from .source import open_source

__all__ = ["FORMATS", "FORMAT_NAMES", "read"]

# The first whose matches(source) is true reads the file; native takes what is left.
FORMATS: tuple[ModuleType, ...] = (
    peft_tuners,
    peft,
    deft_sdxl,
    deft_omnigen,
    para_deft,
    para_authors,
    svdiff,
    native,
)
FORMAT_NAMES: tuple[str, ...] = tuple(module.NAME for module in FORMATS)


def read(path: str | Path, projector: str = "auto", file_format: str = "auto", base: WeightOf | None = None) -> Adapter:
    """Read an adapter from a file or a PEFT folder, whatever its format.

    `projector` says how a stored P becomes Q: "auto" goes by the file's record, one of READ_PROJECTORS overrides it.
    `base`, the weights of the base model by layer names, shows it where a file of PEFT has no record.
    `file_format` picks the format by name where "auto" would take another. `metadata["file_format"]` names the format
    and `metadata["note"]` what had to be assumed, if anything; `metadata["if_nothing_fits"]` is for a model that no
    layer fits, where the format knows why.
    Raises FileNotFoundError or ValueError: the message names the file, and the tensor where there is one.
    """
    try:
        with layer_patterns.limited():
            return _read(path, projector, file_format, base)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(one_line(f"{path} cannot be read ({reason}): check its name and permissions.")) from error
    except ValueError as error:
        if str(error) == one_line(str(error)):
            raise
        raise ValueError(one_line(str(error))) from error


def _read(path: str | Path, projector: str, file_format: str, base: WeightOf | None) -> Adapter:
    if projector not in ("auto", *READ_PROJECTORS):
        raise ValueError(f"Unknown projector {projector!r}: choose auto or one of {', '.join(READ_PROJECTORS)}.")
    if file_format not in ("auto", *FORMAT_NAMES):
        raise ValueError(f"Unknown file format {file_format!r}: choose auto or one of {', '.join(FORMAT_NAMES)}.")
    source = open_source(path)
    check_values(source.tensors, str(source.path))
    if file_format == "auto":
        reader = next(module for module in FORMATS if module.matches(source))
    else:
        reader = next(module for module in FORMATS if file_format == module.NAME)
    options = {"base": base} if reader is peft else {}
    adapter: Adapter = reader.read(source, projector, **options)
    own = {id(tensor) for tensor in source.tensors.values()}
    if made := {adapter.spelled.get(key, key): tensor for key, tensor in adapter.items() if id(tensor) not in own}:
        check_values(made, str(source.path))  # finite numbers can make others that are not
    check_shapes(adapter, str(source.path))
    if file_format != "auto" and not describe(adapter) and adapter.keys() == source.tensors.keys():
        raise ValueError(f"{source.path} has no layer of the format {file_format}: choose auto, or another format.")
    adapter.source = source.path.name
    adapter.metadata.pop(costs.COST_KEY, None)
    adapter.cost = costs.from_text(source.metadata.get(costs.COST_KEY, ""))
    notes = [note for note in (adapter.metadata.get("note"), source.note) if note]
    adapter.metadata |= {**describe(adapter), "file_format": reader.NAME}
    if notes:
        adapter.metadata["note"] = " ".join(notes)
    return adapter
