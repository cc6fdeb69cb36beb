"""`python -m sweeps`, from the pack's folder."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_PACKAGE = "deft_pack"


def load_pack() -> None:
    """Load the pack as a package, whatever its folder is called, so that its folders can import each other."""
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[_PACKAGE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    load_pack()
    sys.exit(importlib.import_module(f"{_PACKAGE}.sweeps.command").main())
