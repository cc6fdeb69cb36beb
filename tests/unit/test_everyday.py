"""The rules of tests/everyday.py, on tests that are made up."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from .. import everyday
from ..scripts import load_script

# What the names in the tables are looked for in.
MODULE = SimpleNamespace(test_one=1, test_ours=1, test_two=1, test_pages=1, test_other=1)


def made(place: str, name: str, *lists: list[Any]) -> list[Any]:
    """The cases of a test with these lists of parameters on top of each other."""
    marks = [SimpleNamespace(args=(f"p{at}",), kwargs={}) for at in range(len(lists))]
    return [
        SimpleNamespace(
            path=everyday.TESTS / place,
            name=f"{name}[{'-'.join(map(str, row))}]",
            originalname=name,
            module=MODULE,
            callspec=SimpleNamespace(
                params={f"p{at}": value for at, value in enumerate(row)}, id="-".join(map(str, row))
            ),
            iter_markers=lambda _: marks,
        )
        for row in itertools.product(*lists)
    ]


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the real names."""
    for name in ("CHOSEN", "ONLY_IN_ALL", "OF_COMFYUI", "CONTRACT"):
        monkeypatch.setattr(everyday, name, {})


def ids(items: list[Any]) -> list[str]:
    return [item.callspec.id for item in items]


def test_each_value_is_run_once() -> None:
    """Three of 3 x 2 cases have all five values: pairs are the combinations that are left out."""
    cases = made("comfy/test_a.py", "test_one", ["a", "b", "c"], [1, 2])
    choice = everyday.choose(cases, "everyday")
    assert ids(choice.kept) == ["a-1", "b-2", "c-1"]
    assert ids(choice.repeats) == ["a-2", "b-1", "c-2"]
    assert everyday.choose(cases, "all").kept == cases
    one = made("comfy/test_a.py", "test_one", ["a", "b", "c"])
    assert everyday.choose(one, "everyday").kept == one
    quick = made("unit/test_a.py", "test_one", ["a", "b"], [1, 2])
    assert everyday.choose(quick, "everyday").kept == quick


def test_an_object_has_its_own_values() -> None:
    """Equal words in it are one value; in the rows of a list they are not."""
    objects = [SimpleNamespace(everyday={"base": base, "method": method}) for base, method in ("ax", "ay", "bx", "by")]
    assert (
        everyday.choose(made("comfy/test_a.py", "test_one", objects), "everyday").kept[0].callspec.params["p0"]
        is objects[0]
    )
    assert len(everyday.choose(made("comfy/test_a.py", "test_one", objects), "everyday").kept) == 2
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert len(everyday.choose(made("comfy/test_a.py", "test_one", rows), "everyday").kept) == 4


def test_chosen_cases_and_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pages, other = (
        made("server/test_a.py", "test_pages", ["one", "two", "three"]),
        made("server/test_a.py", "test_other", [1]),
    )
    monkeypatch.setattr(everyday, "CHOSEN", {"server/test_a.py::test_pages": ("two",)})
    assert ids(everyday.choose(pages, "everyday").kept) == ["two"]
    monkeypatch.setattr(everyday, "CHOSEN", {"server/test_a.py::test_pages": everyday.all_but("two")})
    assert ids(everyday.choose(pages, "everyday").kept) == ["one", "three"]
    monkeypatch.setattr(everyday, "CHOSEN", {"server/test_a.py::test_pages": ("four",)})
    with pytest.raises(pytest.UsageError, match="has no case four"):
        everyday.choose(pages, "everyday")
    monkeypatch.setattr(everyday, "CHOSEN", {})
    monkeypatch.setattr(everyday, "ONLY_IN_ALL", {"server/test_a.py::test_pages": "a reason"})
    assert everyday.choose([*pages, *other], "everyday").kept == other
    with pytest.raises(pytest.UsageError, match="leaves nothing of server/test_a.py"):
        everyday.choose(pages, "everyday")
    monkeypatch.setattr(everyday, "ONLY_IN_ALL", {"server/test_a.py::test_gone": "a reason"})
    with pytest.raises(pytest.UsageError, match="names tests that are not there: server/test_a.py::test_gone"):
        everyday.choose(pages, "all")


def test_rules_by_order() -> None:
    assert sorted(everyday.one_of_each_name(["canvas-a", "canvas-b", "vue-a", "vue-c"])) == [
        "canvas-b",
        "vue-a",
        "vue-c",
    ]


def test_an_older_comfyui(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has no part in is never run, of the rest three cases, and every day the contract's first."""
    cases = made("comfy/test_a.py", "test_one", list(range(9))) + made("comfy/test_a.py", "test_ours", [1])
    cases += made("comfy/test_b.py", "test_two", [1, 2])
    monkeypatch.setattr(everyday, "OF_COMFYUI", {"test_a.py": {"test_one"}})
    monkeypatch.setattr(everyday, "CONTRACT", {"test_a.py": None})
    whole = everyday.choose(cases, "all", (0, 24))
    assert [item.name for item in whole.kept] == [
        "test_one[0]",
        "test_one[4]",
        "test_one[8]",
        "test_two[1]",
        "test_two[2]",
    ]
    assert whole.repeats == []
    once = everyday.choose(cases, "everyday", (0, 24))
    assert [item.name for item in once.kept] == ["test_one[0]"]
    assert [item.name for item in once.repeats] == ["test_one[4]", "test_one[8]", "test_two[1]", "test_two[2]"]
    assert "test_ours[1]" in [item.name for item in once.foreign]


def test_every_file_is_in_a_part() -> None:
    """The parts of scripts/test.py have all files of tests between them, each once."""
    script = load_script("test")
    files = [file for part in script.PARTS if part != "comfy-0.24.0" for file in script.files_of(part)]
    there = [path.relative_to(everyday.TESTS.parent).as_posix() for path in everyday.TESTS.glob("*/test_*.py")]
    assert sorted(files) == sorted(there)
    assert sorted(script.files_of("comfy-0.24.0")) == sorted(file for file in there if "/comfy/" in file)
