"""PyTorch's pickled files, read without running anything that is in them.

Only torch's own zip form is read, and of its instructions only those that rebuild plain tensors and dictionaries. The
sizes that a file declares are compared with its own before anything is loaded.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .safe import check_empty

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_ALLOWED = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
}
_NEWER = "torch._utils _rebuild_tensor_v3"  # its storage is of bytes, for any size
_MOST_STEPS = 1_000_000  # some thirty for each tensor
_MOST_OBJECTS = 5_000_000
_ROOM = 200 << 20  # bytes that views may take beside four times their file
_AGAIN = "save its tensors as .safetensors, or with a current torch.save"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a pickled file by name, on the CPU, and a note about what was skipped ("" if nothing).

    A dictionary one level down ({"state_dict": ...}) is taken. Raises FileNotFoundError or ValueError for a missing,
    empty, damaged or foreign file, one that would run code or needs more memory than its size, unusual tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: check the name, or put the file there.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: download or save it again.")
    check(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its parts raise: unpickling, zip, key and type errors
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read ({first}): it is damaged, {_AGAIN}.") from error
    return _tensors(content, path)


def check(path: Path) -> None:
    """Raise ValueError, its message naming the file, for one that `torch.load` must not be given.

    That is one that is no plain zip of torch's, is packed, asks for more than tensors, or whose work and memory are not
    bounded by its size.
    """
    size = path.stat().st_size
    with _opened(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError(f"{path} is a compressed archive, which torch does not write: {_AGAIN}.")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError(f"{path} declares more data than it has: it is damaged or made to fill the memory.")
        names = [entry.filename for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"{path} is a zip archive, but not one of torch.save: choose another file.")
    with _opened(path) as archive, _zip_errors(path):
        program = archive.read(names[0])
    _check_program(program, path)


def _opened(path: Path) -> zipfile.ZipFile:
    with _zip_errors(path):
        return zipfile.ZipFile(path)


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    """What zipfile raises, as one error: names that are no UTF-8 and other versions and encryption among it."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a zip file of torch.save (cut off, old or of another kind): {_AGAIN}."
        ) from error


def _check_program(program: bytes, path: Path) -> None:
    counts: list[int] = []  # of the objects in each thing on the stack, whatever they share; 0 is a mark
    kept: dict[Any, int] = {}
    for number, (operation, argument) in enumerate(_operations(program, path)):
        if number == _MOST_STEPS:
            raise ValueError(f"{path} is refused: its table of tensors has more than {_MOST_STEPS:,} steps.")
        if operation.name in ("GET", "BINGET", "LONG_BINGET"):
            counts.append(kept.get(int(argument), 1))
        elif operation.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            kept[len(kept) if argument is None else int(argument)] = counts[-1] if counts else 1
        elif operation.name == "MARK":
            counts.append(0)
        else:
            _count(operation, counts)
            if counts and counts[-1] > _MOST_OBJECTS:
                raise ValueError(f"{path} is refused: its table of tensors contains itself many times.")
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            if f"{module} {name}" == _NEWER:
                raise ValueError(
                    f"{path} has tensors of a newer dtype (float8 and others), which are read from safetensors files "
                    "only: save it as .safetensors."
                )
            if f"{module} {name}" not in _ALLOWED and not (module == "torch" and name.endswith("Storage")):
                raise ValueError(f"{path} is refused: it asks for {module}.{name}, which tensors do not need.")
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "OBJ"):
            raise ValueError(f"{path} is refused: it creates objects ({operation.name}) which torch.save never does.")


def _operations(program: bytes, path: Path) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """The program's steps. Raises ValueError for bytes that are no pickle."""
    try:
        for operation, argument, _ in pickletools.genops(program):
            yield operation, argument
    except Exception as error:  # pickletools raises ValueError and others
        raise ValueError(f"{path} cannot be read: its table of tensors is damaged.") from error


def _count(operation: pickletools.OpcodeInfo, counts: list[int]) -> None:
    """Do with the counts what the step does with the stack: what it makes holds all that it takes."""
    taken = 0
    names = [thing.name for thing in operation.stack_before]
    if "mark" in names:
        while counts and (count := counts.pop()):
            taken += count
        names = names[: names.index("mark")]
    for _ in names:
        taken += counts.pop() if counts and counts[-1] else 0
    counts.extend(1 + taken for _ in operation.stack_after)


def _tensors(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors: choose another file.")
    if not any(isinstance(value, Tensor) for value in content.values()):
        inner = [value for value in content.values() if isinstance(value, dict)]
        content = next((value for value in inner if any(isinstance(one, Tensor) for one in value.values())), {})
    tensors: dict[str, Tensor] = {}
    room = _ROOM + 3 * path.stat().st_size  # beside the file's own values
    for key, value in content.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            continue
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{path} has {key} in an unusual form ({value.layout}): {_AGAIN}.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path} has {key} with more values than the file holds: it is damaged or hostile.")
        check_empty(value, key, path)
        room -= value.numel() * value.element_size()
        if room < 0:
            raise ValueError(
                f"{path} has many tensors that share the same values and need more memory than its size allows: "
                f"{_AGAIN}."
            )
        tensors[key] = value.detach()
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    left = [str(key) for key in content if key not in tensors]
    return tensors, f"{path.name}: {', '.join(left[:3])} skipped, not tensors." if left else ""
