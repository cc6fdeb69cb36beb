"""Which nodes of a workflow train."""

from __future__ import annotations

from typing import Any

import pytest

from deft_pack.sweeps.training_nodes import TRAINERS, trains


@pytest.mark.parametrize(
    ("kind", "inputs", "expected"),
    [
        *((kind, {}, True) for kind in TRAINERS),
        ("TrainSomething", {}, True),
        ("OtherFineTuner", {"learning_rate": 1e-4}, True),
        ("DEFTTrainingSettings", {}, False),
        ("DEFTTrainingPreviews", {}, False),
        ("KSampler", {"seed": 1}, False),
    ],
)
def test_nodes_that_train(kind: str, inputs: dict[str, Any], expected: bool) -> None:
    assert trains({"class_type": kind, "inputs": inputs}) == expected


def test_what_is_no_node_does_not_train() -> None:
    assert not trains({})
