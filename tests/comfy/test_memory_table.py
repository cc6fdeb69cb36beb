"""benchmarks/memory.py on ComfyUI's networks at full size, without their weights; its tables in the documents."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "benchmarks"
# By their published files.
WEIGHTS = {"sd15": 859_520_964 * 2, "flux_512": 11_901_408_320}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script, whose modules find each other in its folder, in this process' ComfyUI."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        import memory

        yield memory
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
                del sys.modules[name]


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_tables_are_those_of_the_script(comfyui: Any, script: ModuleType, name: str) -> None:
    rows = list(script.rows(name, ["lora", "deft"]))
    assert rows[0]["weights"] == pytest.approx(WEIGHTS[name], rel=0.001)
    for page, line in (("docs/training.md", script.table(rows)[0]), ("README.md", script.hardware(rows)[0])):
        assert f"\n{line}\n" in (ROOT / page).read_text(encoding="utf-8"), f"{page}: benchmarks/memory.py --write"


def test_a_page_keeps_what_is_around_the_table(script: ModuleType) -> None:
    marker = "<!-- memory: benchmarks/memory.py --write -->"
    page = f"before\n\n{marker}\n\n| a |\n|---|\n| old |\n| older |\n\nafter\n\n| b |\n|---|\n| 1 |\n"
    written = script.replaced(page, "memory", ["| new |"])
    assert written == page.replace("| old |\n| older |\n", "| new |\n")
    with pytest.raises(ValueError, match="has no '<!-- hardware"):
        script.replaced(page, "hardware", [])


def test_what_a_card_can_do(script: ModuleType) -> None:
    sizes = {"off": 20.0, "every second block": 12.0, "every block": 9.0, "offloaded": 8.5}
    rows = [{"mode": mode, "total": size * script.GIB, "weights": 6 * script.GIB} for mode, size in sizes.items()]
    assert script.on_card(rows, 24) == "off"
    assert script.on_card(rows, 16) == "every second block"
    assert script.on_card(rows, 12) == "every block"  # ComfyUI keeps some free
    assert script.on_card(rows, 8) == "offloaded, 0.9 GB of weights away"
    assert script.on_card(rows, 4) == "not tried"
