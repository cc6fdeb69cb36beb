"""The cells of a plan, as records: what runs, keeps and shows them needs no more than these."""

from __future__ import annotations

from dataclasses import dataclass, field

from .files import SWEEPS_FOLDER

CellChoice = tuple[int, ...]  # the index of the chosen value of each axis, in the plan's order


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One picture cell. needs: keys of its training cells. models: equal for cells with the same models in memory."""

    key: str
    choice: CellChoice
    needs: tuple[str, ...]
    models: bytes = b""


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """One training cell. node: its training node. needs: training cells that this one builds on."""

    key: str
    choice: CellChoice
    node: str
    needs: tuple[str, ...]
    axes: tuple[int, ...]


@dataclass
class Cells:
    """All cells of a plan. pictures: in the order in which they are run, one for each combination that the plan has.

    Several combinations may have the same key: they are the same cell. trainings: by key, in order of first use.
    """

    pictures: list[PlannedCell] = field(default_factory=list)
    trainings: dict[str, PlannedTraining] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def adapter_name(key: str) -> str:
    """The name that loaders have for the adapter of a training cell, below the loras folder."""
    return f"{SWEEPS_FOLDER}/{key}.safetensors"
