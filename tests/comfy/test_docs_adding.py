"""The parts of docs/adding.md that need ComfyUI, done in a copy of the pack, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .. import walks


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walks.walked_copy(tmp_path_factory.mktemp("walked"))


@pytest.mark.timeout(600)
def test_the_commands_pass(copy: Path) -> None:
    """All in one process: ComfyUI takes seconds to start."""
    words = [line.split() for _, line in walks.commands("comfy")]
    files = dict.fromkeys(word for line in words for word in line if word.startswith("tests/comfy/"))
    assert len(files) == 5
    # One of the lines picks tests by name; the names of the others' files are added to it.
    named = " or ".join(["householder", "every_method", *(Path(file).stem for file in files if "every" not in file)])
    assert " passed" in walks.run(f'python -m pytest -q {" ".join(files)} -k "{named}"', copy)
