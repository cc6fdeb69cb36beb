"""A workflow in ComfyUI's API form as it is put together, and what all workflows take from the pack's source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .packing import Packing

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "sks"
APPLY = {"strength_model": 1.0, "strength_clip": 1.0, "removal": 1.0, "injection": 1.0, "stacking": "sequential"}

Connection = list[Any]  # [node, output]


class PromptBuilder(dict[str, Any]):
    """A workflow in ComfyUI's API form. packings: which of its nodes are one on top."""

    packings: Sequence[Packing] = ()

    def add(self, node_id: int, kind: str, title: str, inputs: Mapping[str, Any]) -> Connection:
        """A node; its first output."""
        self[str(node_id)] = {"class_type": kind, "inputs": dict(inputs), "_meta": {"title": title}}
        return [str(node_id), 0]


def defaults() -> dict[str, Any]:
    """The default values of Training Settings, in the order of its widgets.

    Read from the source, since its modules import ComfyUI: the entries of trainers/settings/settings.py and run.py
    that have their widget there, and those of the methods where `options` stands.
    """
    values: dict[str, Any] = {"preset": "none"}
    folder = ROOT / "trainers" / "settings"
    for name, call in _annotated(folder / "settings.py") + _annotated(folder / "run.py"):
        if name == "options":
            for path in sorted((ROOT / "deft_ops" / "methods").glob("*.py")):
                values |= _widgets(_annotated(path))
        else:
            values |= _widgets([(name, call)])
    return values


def _annotated(path: Path) -> list[tuple[str, ast.Call]]:
    """The fields of a file's dataclasses that are made by a call."""
    return [
        (ast.unparse(item.target), item.value)
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Call)
    ]


def _widgets(calls: Iterable[tuple[str, ast.Call]]) -> dict[str, Any]:
    """The defaults of entries at Training Settings; those that came later are optional."""
    values = {}
    for name, call in calls:
        if len(call.args) != 2 or not isinstance(setting := call.args[0], ast.Call):
            continue
        if not {"at", "later"} & {word.arg for word in setting.keywords}:
            values[name] = ast.literal_eval(call.args[1])
    return values


# What examples and plans share: the node's own values, but one checkpoint is kept, from every 100 steps, and each
# example names its runs.
SETTINGS = defaults() | {"run_name": "", "checkpoint_every": 100, "keep": 1}
