"""The folders of the pack's Python code, and one of them as a package of its own: with the pack's root on sys.path its
`nodes` would hide ComfyUI's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "deft_ops",
    "models",
    "matching",
    "patches",
    "convert",
    "trainers",
    "nodes",
    "scoring",
    "reports",
    "sweeps",
    "disk",
)


def load_room(folder: str, module: str) -> Any:
    """A module of a folder that imports nothing of the pack's other folders."""
    name = f"deft_{folder}"
    if name not in sys.modules:
        path = ROOT / folder
        spec = importlib.util.spec_from_file_location(
            name, path / "__init__.py", submodule_search_locations=[str(path)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"{name}.{module}")
