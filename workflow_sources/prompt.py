"""A workflow in ComfyUI's API form as it is put together, and what all workflows take from the pack's source."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "sks"
APPLY = {"strength_model": 1.0, "strength_clip": 1.0, "removal": 1.0, "injection": 1.0, "stacking": "sequential"}

Link = list[Any]  # [node, output]


class Prompt(dict[str, Any]):
    """A workflow in ComfyUI's API form."""

    def add(self, node_id: int, kind: str, title: str, inputs: Mapping[str, Any]) -> Link:
        """A node; its first output."""
        self[str(node_id)] = {"class_type": kind, "inputs": dict(inputs), "_meta": {"title": title}}
        return [str(node_id), 0]


def defaults() -> dict[str, Any]:
    """What Training Settings starts with: the entries of trainers/settings/settings.py that have their widget there.

    They are read from the source, since its modules import ComfyUI. Those that came later are optional.
    """
    found: dict[str, Any] = {"preset": "none"}
    for item in ast.walk(ast.parse((ROOT / "trainers" / "settings" / "settings.py").read_text(encoding="utf-8"))):
        if isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Call) and len(item.value.args) == 2:
            setting, default = item.value.args
            if isinstance(setting, ast.Call) and not {"at", "later"} & {word.arg for word in setting.keywords}:
                found[ast.unparse(item.target)] = ast.literal_eval(default)
    return found


# As the node has them, but a checkpoint every 100 steps.
SETTINGS = defaults() | {"run_name": "", "checkpoint_every": 100, "keep": 1}
