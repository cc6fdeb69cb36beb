"""`make test` leaves out combinations only: what the documents list is run in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deft_pack.deft_ops import methods

from ..everyday import CHOSEN, ONLY_IN_ALL, name_of, place_of, values_of
from .architectures import ARCHITECTURES
from .bases import BASES
from .format_files import FORMATS
from .pack import Pack
from .test_quantised import FORMATS as QUANTISED

FOLDER = Path(__file__).parent


class Collected:
    """What is left of the tests after the selection."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def collected(size: str) -> list[pytest.Item]:
    """The tests of some files that a size of the run has, collected here: all that they import is loaded."""
    seen = Collected()
    files = [
        FOLDER / f"test_{name}.py"
        for name in ("architectures", "bases", "every_method", "format_table", "quantised", "training_runs")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEFT_TEST", size)
        words = ["--collect-only", "-q", "--capture=no", "-p", "no:faulthandler", *map(str, files)]
        assert pytest.main(words, plugins=[seen]) == 0
    return seen.items


@pytest.fixture(scope="module")
def everyday(comfyui_session: Any) -> list[pytest.Item]:
    return collected("everyday")


def params(items: list[pytest.Item], file: str, test: str, name: str) -> list[Any]:
    """A parameter's values in the cases of a test."""
    return [item.callspec.params[name] for item in items if item.path.name == file and name_of(item) == test]


def test_what_the_documents_list_is_run(pack: Pack, everyday: list[pytest.Item]) -> None:
    for test in ("test_both_networks_are_the_same_without_an_adapter", "test_an_adapter_does_the_same_in_both"):
        names = params(everyday, "test_architectures.py", test, "name")
        assert set(names) == {architecture.name for architecture in ARCHITECTURES}
    assert set(params(everyday, "test_every_method.py", "test_method", "method")) == set(methods.TRAINABLE)
    assert set(params(everyday, "test_format_table.py", "test_a_row_says_what_happens", "name")) == set(FORMATS)
    assert set(params(everyday, "test_training_runs.py", "test_every_optimizer_resumes", "optimizer")) == set(
        pack.optimizers.OPTIMIZERS
    )
    assert set(params(everyday, "test_quantised.py", "test_effect_on_a_quantised_base", "kind")) >= set(QUANTISED) - {
        "convrot_w4a4"
    }


def test_every_base_is_trained(everyday: list[pytest.Item]) -> None:
    cases = params(everyday, "test_bases.py", "test_it_trains", "case")
    kinds = {base.kind for base in BASES}
    assert {case.base.name for case in cases} == {base.name for base in BASES}
    assert {(case.base.kind, case.method) for case in cases} == {
        (kind, name) for kind in kinds for name in methods.TRAINABLE
    }
    assert {case.precision for case in cases} == {"fp32", "bf16"}
    assert {case.checkpointing for case in cases} == {True, False}


def test_combinations_are_left_out_and_values_are_not(everyday: list[pytest.Item]) -> None:
    """Each test of these files whose cases are not chosen by hand keeps all values, in fewer cases."""
    by_hand = {*CHOSEN, *ONLY_IN_ALL}
    everyday, whole = (
        [item for item in items if f"{place_of(item)}::{name_of(item)}" not in by_hand]
        for items in (everyday, collected("all"))
    )
    assert len(everyday) < len(whole)

    def values(items: list[pytest.Item]) -> set[Any]:
        return {(item.path, name_of(item), value) for item in items for value in values_of(item)}

    def named(items: list[pytest.Item]) -> set[Any]:
        return {(item.path, name_of(item)) for item in items}

    assert named(everyday) == named(whole)
    assert len(values(everyday)) == len(values(whole))
