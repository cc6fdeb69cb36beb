"""The parts of docs/maintainers/adding.md that need ComfyUI, done in a copy of the pack, in processes of their own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .. import walks
from ..everyday import is_everyday

NODE = "DEFTAdapterSize"  # of the walk "A node"


@dataclass
class Followed:
    """A copy in which all walks are done; by walk what tests/people.py said after it that it had not said before."""

    copy: Path
    by_section: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def what(self, kind: str) -> dict[str, list[str]]:
        """The lines of a kind, of the walks that have some."""
        return {section: lines[kind] for section, lines in self.by_section.items() if lines[kind]}


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """Walk by walk, each with all that it leaves to `make generated` and to people."""
    result = Followed(walks.unwalked_copy(tmp_path_factory.mktemp("followed")))
    before: dict[str, list[str]] = {"left": []}
    for section in dict.fromkeys(step.section for step in walks.steps()):
        walks.walk(result.copy, section)
        now = _by_people(result.copy)
        result.by_section[section] = {kind: [line for line in now[kind] if line not in before["left"]] for kind in now}
        before = now
    return result


def _by_people(copy: Path) -> dict[str, list[str]]:
    return json.loads(walks.run("python tests/people.py", copy).splitlines()[-1])


@pytest.fixture(scope="module")
def copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every day only what the document writes is done in the copy."""
    if is_everyday():
        return walks.walked_copy(tmp_path_factory.mktemp("walked"))
    return request.getfixturevalue("followed").copy


@pytest.mark.timeout(1800)
def test_each_walk_says_what_is_left_to_do(followed: Followed) -> None:
    """What is not up to date after a walk is made by the parts that it names, or written by people where it says so."""
    parts = {
        section: set(re.findall(r"PARTS=(\w+)", "\n".join(lines["stale"])))
        for section, lines in followed.by_section.items()
    }
    assert parts == {section: walks.generated(section) for section in followed.by_section}
    assert followed.what("lacking") == {
        "A node": [f"zh: {path}: not translated" for path in (NODE, f"{NODE}.inputs.adapter", f"{NODE}.outputs.0")],
        "A setting": ["zh: DEFTTrainingSettings.inputs.lowest_rate: not translated"],
    }
    pages, texts, words = (
        [section for section, text in walks.sections().items() if path in text]
        for path in ("`web/docs/`", "`locales/zh/nodeDefs.json`", "`locales/zh/words.json`")
    )
    assert pages == ["A node"]
    assert texts == list(followed.what("lacking"))
    assert words == list(followed.what("words"))
    picture = "web/docs/{}/node.png is stale: make generated PARTS=node_pictures"
    assert followed.what("left") == {
        "A node": [picture.format(NODE)],
        "A setting": [picture.format("DEFTTrainingSettings")],
    }


@pytest.mark.timeout(1800)
def test_the_gate_of_the_pack_passes(copy: Path) -> None:
    """The tests that the walks name, and in `make test-all` those that go over lists of the pack's, too. All in one
    process: ComfyUI takes seconds to start."""
    named = walks.files_of("comfy")
    over_lists: list[str] = []
    if not is_everyday():
        over_lists = [f"tests/comfy/test_{name}.py" for name in walks.OVER_LISTS]
        over_lists += [f"--deselect={test}" for test in walks.OF_PICTURES]
    chosen = walks.chosen("comfy", () if is_everyday() else walks.OVER_LISTS)
    gate = walks.gate(copy, *dict.fromkeys([*named, *over_lists]), "-k", chosen)
    assert gate.failed == (), gate.output[-12000:]
    assert [file for file in named if not gate.passed[file]] == []


@pytest.mark.timeout(600)
def test_the_types_are_right(copy: Path) -> None:
    """mypy passes, as in `make lint`."""
    assert "[test] types: 1 passed" in walks.run("python scripts/test.py types", copy)
