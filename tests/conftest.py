"""Loads the checkout as the package `deft_pack`, whatever its folder is called, without ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_pack() -> None:
    """Put the repository root into sys.modules under the name that the tests import."""
    spec = importlib.util.spec_from_file_location(
        "deft_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["deft_pack"] = module
    spec.loader.exec_module(module)


if "deft_pack" not in sys.modules:
    load_pack()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT
