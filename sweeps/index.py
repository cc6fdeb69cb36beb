"""The cells of a plan as the store keeps them, so that `status` and `report` need no workflow and no server."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .cells import Cells, Compiler
from .records import Kind

INDEX_FILE = "cells.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of a plan. labels: axis -> label of its value."""

    key: str
    kind: Kind
    labels: dict[str, str]
    needs: tuple[str, ...]


def write_index(compiler: Compiler, cells: Cells) -> bytes:
    """All cells, trainings first, a line each; the first line names the axes."""
    axes = compiler.plan.axes
    values = [[value.label for value in axis.values] for axis in axes]
    lines = [json.dumps([axis.name for axis in axes])]
    for training in cells.trainings.values():
        labels = [values[axis][index] if axis in training.axes else None for axis, index in enumerate(training.choice)]
        lines.append(json.dumps([training.key, "training", labels, training.needs]))
    lines += [json.dumps([cell.key, "picture", [names[index] for names, index in zip(values, cell.choice)], cell.needs])
              for cell in cells.pictures]
    return ("\n".join(lines) + "\n").encode()


def read_index(data: bytes) -> list[Entry]:
    """What `write_index` has written."""
    first, *lines = data.decode().splitlines()
    axes = json.loads(first)
    entries = []
    for line in lines:
        key, kind, labels, needs = json.loads(line)
        entries.append(Entry(key, kind, {axis: label for axis, label in zip(axes, labels) if label is not None},
                             tuple(needs)))
    return entries
