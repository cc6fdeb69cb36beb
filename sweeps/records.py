"""The record in the store of a cell that has been run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["training", "picture"]
Status = Literal["done", "failed", "cancelled"]

CELL_FILE, RUN_FILE = "cell.json", "run.json"


@dataclass(frozen=True)
class StoredFile:
    """A file that an output node has made. name: in the cell's folder. node, title, class_type: which node made it."""

    name: str
    node: str
    title: str
    class_type: str


@dataclass(frozen=True)
class Cell:
    """The part of a cell that is the same in every run of it: the content of cell.json.

    key: hash of the resolved prompt and of the files that it names. labels: axis -> name of the value, in the plan's
    order; of a training cell, those axes that it depends on. needs: keys of the training cells whose adapters it used.
    prompt: the whole workflow in API form, as dragging a picture into ComfyUI restores it. numbers: values that the
    plan's output rules took from texts.
    """

    key: str
    kind: Kind
    labels: dict[str, str]
    needs: tuple[str, ...] = ()
    prompt: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: tuple[StoredFile, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CellRun:
    """One run of a cell: the content of run.json.

    seconds: from the start of its execution to its end. node_seconds: by node id. memory: highest values seen while it
    ran, in MiB: `process` (resident memory of the server, where it is our own) and `torch` (memory that PyTorch holds
    on the GPU), sampled every second. versions: ComfyUI, PyTorch, Python, device. worker: which server ran it.
    """

    status: Status
    error: str = ""
    seconds: float = 0.0
    node_seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    worker: str = ""
    attempts: int = 1
    finished: str = ""
    texts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A cell of the store. folder: where its files are."""

    cell: Cell
    run: CellRun
    folder: Path

    def path(self, file: StoredFile) -> Path:
        """The path of a stored file."""
        return self.folder / file.name


def to_json(value: Cell | CellRun) -> bytes:
    """The content of cell.json or run.json."""
    return (json.dumps(asdict(value), ensure_ascii=False, indent=1) + "\n").encode()


def read_record(folder: Path) -> Record:
    """The cell in a folder of the store. What a newer version of the pack has added to it is left out.

    Raises ValueError that names the file if it is damaged.
    """
    from pydantic import ValidationError

    values: list[Any] = []
    for name, kind in ((CELL_FILE, Cell), (RUN_FILE, CellRun)):
        try:
            values.append(_reader(kind).validate_json((folder / name).read_bytes()))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise _damaged(folder / name, f"{place}: {first['msg']}" if place else first["msg"]) from error
        except OSError as error:
            raise _damaged(folder / name, error.strerror or type(error).__name__) from error
    cell, run = values
    if cell.key != folder.name:
        raise _damaged(folder / CELL_FILE, f"it is the record of {cell.key!r}")
    return Record(cell, run, folder)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} cannot be read ({reason}): remove the folder, or all such cells with `sweeps clean --damaged`, and "
        "run the sweep again to make this cell once more."
    )


@cache
def _reader(kind: type) -> Any:
    """Reads a record's JSON. Numbers may be NaN."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
