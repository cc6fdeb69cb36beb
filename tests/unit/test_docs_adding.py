"""docs/adding.md, done step by step in a copy of the pack. What needs ComfyUI is in tests/comfy/test_docs_adding.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .. import walks


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walks.walked_copy(tmp_path_factory.mktemp("walked"))


def test_every_walk_ends_with_a_test() -> None:
    kinds: dict[str, set[str]] = {}
    for step in walks.steps():
        assert step.kind in ("python", "diff", "sh"), step
        kinds.setdefault(step.section, set()).add(step.kind)
    assert len(kinds) == 10
    assert all({"diff", "sh"} <= found for found in kinds.values())


@pytest.mark.parametrize(("section", "line"), walks.commands("unit"))
def test_the_commands_pass(copy: Path, section: str, line: str) -> None:
    output = walks.run(line, copy)
    assert " passed" in output or "nearest" in output, output


def test_a_schedule_is_one_entry(copy: Path) -> None:
    code = "import runpy; print(runpy.run_path('trainers/step/optimisation.py')['rate_factor']('square root', 75, 100))"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0.5


def test_what_is_written_keeps_the_rules(copy: Path) -> None:
    """Style and arrows between the folders, of the new files and the changed ones."""
    files = sorted({step.path for step in walks.steps() if step.kind != "sh"})
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *files]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in walks.run("python -m pytest -q tests/unit/test_architecture.py", copy)


def test_a_change_that_does_not_fit_is_seen() -> None:
    assert walks.changed("a\nb\nc\n", " a\n-b\n+d\n") == "a\nd\nc\n"
    for text in ("a\nc\n", "a\nb\na\nb\n", "xa\nb\n"):
        with pytest.raises(AssertionError, match="stands there"):
            walks.changed(text, " a\n-b\n+d\n")
