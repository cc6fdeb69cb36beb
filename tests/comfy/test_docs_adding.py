"""The parts of docs/maintainers/adding.md that need ComfyUI, done in a copy of the pack, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .. import walks
from ..everyday import is_everyday


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walks.walked_copy(tmp_path_factory.mktemp("walked"))


@pytest.mark.timeout(600)
def test_the_gate_of_the_pack_passes(copy: Path) -> None:
    """The tests that the walks name, and in `make test-all` those that go over lists of the pack's, too. All in one
    process: ComfyUI takes seconds to start."""
    named = walks.files_of("comfy")
    over_lists: list[str] = []
    if not is_everyday():
        walks.run("python scripts/make_generated.py interface locales help", copy)
        over_lists = [f"tests/comfy/test_{name}.py" for name in walks.OVER_LISTS]
    chosen = ("-k", "householder or not test_method") if is_everyday() else ()  # of the methods the new one
    gate = walks.gate(copy, *dict.fromkeys([*named, *over_lists]), *chosen)
    assert gate.failed == (), gate.output[-12000:]
    assert [file for file in named if not gate.passed[file]] == []
