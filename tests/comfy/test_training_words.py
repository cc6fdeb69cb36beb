"""What Train Adapter says before its first step and after a stop, through ComfyUI's executor."""

from __future__ import annotations

from typing import Any

import pytest

from .test_adapter_nodes import settings, training_prompt


@pytest.fixture
def shown(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts at the node, in their order."""
    texts: list[str] = []
    monkeypatch.setattr(comfyui.module("nodes.training"), "show_text", texts.append)
    return texts


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"checkpoint_every": 100, "resume": True}, "stopped at step 3 of 200, kept; run again to continue"),
        (
            {"checkpoint_every": 100, "resume": False},
            "stopped at step 3 of 200, kept; switch resume on and run again to continue",
        ),
        ({}, "stopped at step 3 of 200; nothing is kept, because checkpoint_every is 0"),
    ],
)
def test_a_stop_is_said_at_the_node(
    comfyui: Any, monkeypatch: pytest.MonkeyPatch, shown: list[str], changed: dict[str, Any], expected: str
) -> None:
    import comfy.model_management

    reporter = comfyui.module("nodes.training").StepReporter
    own = reporter.__call__

    def interrupt(self: Any, progress: Any) -> None:
        own(self, progress)
        if progress.step == 3:
            comfy.model_management.interrupt_current_processing()

    prompt = training_prompt(steps=200, seed=77)
    prompt["settings"] = settings(run_name=f"tests/stop_{len(changed)}_{changed.get('resume')}", **changed)
    with monkeypatch.context() as patch:
        patch.setattr(reporter, "__call__", interrupt)
        failed = comfyui.fail(prompt, want=["train"])
    assert failed.kind == "interrupted"
    assert shown[-1] == expected


@pytest.mark.parametrize(
    ("step", "kept", "expected"),
    [
        (0, 0, "stopped at step 0 of 200; nothing is kept"),
        (36, 36, "stopped at step 36 of 200, kept; run again to continue"),
        (36, 20, "stopped at step 36 of 200; step 20 is kept: run again to continue from there"),
    ],
)
def test_what_a_stop_keeps(comfyui: Any, step: int, kept: int, expected: str) -> None:
    """A full disk keeps an older step, or none."""
    assert comfyui.module("trainers.run.report").stopped(step, 200, kept, True, True) == expected


def test_a_rate_far_from_the_usual_one_is_said_before_the_first_step_and_in_the_report(
    comfyui: Any, shown: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = "WARNING: learning rate 1e-4 is 40 times the usual one for dreambooth (2.5e-6, DreamBench++)"
    with caplog.at_level("INFO"):
        report = comfyui.run(training_prompt("dreambooth", learning_rate=1e-4), want=["train"]).text("train")
    assert report.count(text) == 1
    assert text in shown[0]
    assert "step 1/3" in shown[1]
    assert text in caplog.text
    usual = comfyui.run(training_prompt("dreambooth", learning_rate=2.5e-6), want=["train"]).text("train")
    assert "the usual one" not in usual


def test_the_costs_name_what_was_not_measured(comfyui: Any) -> None:
    line, costs = comfyui.module("trainers.run.report").cost_line, comfyui.module("deft_ops.costs")
    measurements = {"seconds_a_step": 0.25, "bytes": 2**19}
    assert (
        line(costs.TrainingCost(**measurements))
        == "cost: 0.25 s a step (median), peak memory not measured, adapter 0.500 MiB"
    )
    measured = costs.TrainingCost(**measurements, peak_bytes=3 * 2**30, memory="process")
    assert "peak memory 3,072 MiB (of the process), " in line(measured)
