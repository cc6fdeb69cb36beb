"""The cells of a plan as the store keeps them, so that `status` and `report` need no workflow and no server."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .cells import Compiler
from .planned import Cells, PlannedCell, PlannedTraining
from .records import Kind

INDEX_FILE = "cells.jsonl"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A cell of a plan. labels: axis -> label of its value."""

    key: str
    kind: Kind
    labels: dict[str, str]
    needs: tuple[str, ...]


def write_index(compiler: Compiler, cells: Cells) -> bytes:
    """All cells, trainings first, a line each; the first line names the axes."""
    axes = [axis.name for axis in compiler.plan.axes]
    lines = [json.dumps(axes)]
    every: list[PlannedCell | PlannedTraining] = [*cells.trainings.values(), *cells.pictures]
    for cell in every:
        labels = compiler.labels_of(cell)
        lines.append(json.dumps([cell.key, compiler.kind_of(cell), [labels.get(axis) for axis in axes], cell.needs]))
    return ("\n".join(lines) + "\n").encode()


def read_index(data: bytes) -> list[IndexEntry]:
    """The entries that `write_index` has written. Raises ValueError or TypeError for anything else."""
    first, *lines = data.decode().splitlines()
    axes = json.loads(first)
    if not isinstance(axes, list):
        raise ValueError("its first line names no axes")
    entries = []
    for line in lines:
        key, kind, labels, needs = json.loads(line)
        if not isinstance(key, str) or not isinstance(labels, list) or not isinstance(needs, list):
            raise ValueError(f"{line[:100]} is no cell")
        entries.append(
            IndexEntry(key, kind, {axis: label for axis, label in zip(axes, labels) if label is not None}, tuple(needs))
        )
    return entries
