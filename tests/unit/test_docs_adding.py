"""docs/maintainers/adding.md, done step by step in a copy of the pack, without ComfyUI (tests/comfy has the rest)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .. import walks
from ..everyday import is_everyday


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walks.walked_copy(tmp_path_factory.mktemp("walked"))


def test_every_walk_ends_with_a_test() -> None:
    kinds: dict[str, set[str]] = {}
    for step in walks.steps():
        assert step.kind in ("python", "diff", "sh"), step
        kinds.setdefault(step.section, set()).add(step.kind)
    assert len(kinds) == 12
    assert all({"diff", "sh"} <= kinds_here for kinds_here in kinds.values())


def test_a_walk_is_a_screen() -> None:
    lines = {section: text.count("\n") for section, text in walks.sections().items()}
    assert {section: count for section, count in lines.items() if count > walks.LONGEST} == {}


def test_every_walk_says_what_is_generated() -> None:
    """Each walk says what it leaves; tests/comfy compares that with what is stale after the walk."""
    for section in {step.section for step in walks.steps()}:
        text = walks.sections()[section]
        (last,) = re.findall(r"Generated: nothing|Then\s`make generated PARTS=", text)
        assert (last == "Generated: nothing") == (not walks.generated(section)), section
        before, _, after = text.partition(last)
        assert last == "Generated: nothing" or ("By hand first: " in before and "By hand" not in after), section


@pytest.fixture(scope="module")
def gate(copy: Path) -> walks.Gate:
    """The unit tests of the copy, as far as a walk can have a part in them, in one process."""
    if is_everyday():
        over_lists = [f"tests/unit/test_{name}.py" for name in walks.EVERY_DAY]
        slow = [f"--deselect={test}" for test in walks.SLOW]
        files = dict.fromkeys([*walks.files_of("unit"), *over_lists])
        return walks.gate(copy, *files, *slow, "-k", walks.chosen("unit"))
    return walks.gate(copy, "tests/unit", *(f"--ignore=tests/unit/test_{name}.py" for name in walks.LEFT_OUT))


@pytest.mark.timeout(600)
def test_the_gate_of_the_pack_passes(gate: walks.Gate) -> None:
    """Who follows the walks to the letter is done: no other test of the pack fails."""
    assert gate.failed == (), gate.output[-12000:]
    assert sum(gate.passed.values()) > 800


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("section", "line"), walks.commands("unit"))
def test_the_commands_pass(copy: Path, gate: walks.Gate, section: str, line: str) -> None:
    """Tests that a walk names are among the gate's; another command is run."""
    files = [word for word in line.split() if word.startswith("tests/")]
    if line.startswith("python -m pytest -q "):
        for file in files:
            assert gate.passed[file], f"{file} was not run"
            assert [name for name in gate.failed if name.startswith(file)] == []
    else:
        assert "nearest" in walks.run(line, copy)


def test_what_the_gate_leaves_is_there() -> None:
    for test in (*walks.SLOW, *walks.OF_PICTURES):
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (walks.ROOT / file).read_text(encoding="utf-8"), test


def test_a_schedule_is_one_entry(copy: Path) -> None:
    code = (
        "import runpy; print(runpy.run_path('trainers/settings/schedules.py')['rate_factor']('square root', 75, 100))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0.5


@pytest.mark.parametrize("how", ["check", "format --check"])
def test_what_is_written_keeps_the_rules(copy: Path, how: str) -> None:
    """Style and format of everything; the arrows between the folders are a test of the gate's."""
    command = [sys.executable, "-m", "ruff", *how.split(), "--no-cache", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_change_that_does_not_fit_is_seen() -> None:
    assert walks.changed("a\nb\nc\n", " a\n-b\n+d\n") == "a\nd\nc\n"
    assert walks.changed("a\nb\nc\n", " a\n-b\n+d\n@@\n+e\n c\n") == "a\nd\ne\nc\n"
    for text in ("a\nc\n", "a\nb\na\nb\n", "xa\nb\n"):
        with pytest.raises(AssertionError, match="stands there"):
            walks.changed(text, " a\n-b\n+d\n")
