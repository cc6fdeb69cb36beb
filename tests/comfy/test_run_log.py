"""A run's log with damaged lines: each costs itself, is reported once, and the other lines stay."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

STEPS = 200
SCORED = '{"preview": 50, "scores": {"DINO": 0.5}, "measured": "m"}'


def record(step: int) -> dict[str, Any]:
    """What the log says of a step."""
    return {
        "step": step,
        "loss": 1 / step,
        "rate": 1e-4,
        "grad_norm": 1.0,
        "seconds": 0.25 * step,
        "peak_bytes": 2**20 + step,
    }


def text(step: int) -> str:
    """The log's line of a step."""
    return json.dumps(record(step))


def run_of(pack: Any, folder: Path, changed: dict[int, str], end: str = "\n") -> Any:
    """A run whose log has a line for each step; the line of a number in `changed` is another one."""
    lines = [changed.get(number, text(number)) for number in range(1, STEPS + 1)]
    (folder / "log.jsonl").write_bytes(("\n".join(lines) + end).encode("utf-8", "surrogateescape"))
    return pack.checkpoints.RunFolder(folder, 1)


DAMAGED = {
    "cut": text(100)[:30],
    "no JSON": "what is this",
    "no object": "[100, 0.5]",
    "a number": "100",
    "of nothing": '{"epoch": 100}',
    "NaN": json.dumps(record(100) | {"loss": math.nan}),
    "infinite": json.dumps(record(100) | {"seconds": math.inf}),
    "a text for a number": json.dumps(record(100) | {"rate": "low"}),
    "a step that is none": json.dumps(record(100) | {"step": True}),
    "no rate": '{"step": 100, "loss": 0.5, "seconds": 0.25}',
    "bytes": "\udcff\udcfe\r\x85\x0b",
    "scores that are no numbers": '{"preview": 100, "scores": {"DINO": NaN}, "measured": "m"}',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_in_the_middle_costs_itself(pack: Any, tmp_path: Path, line: str) -> None:
    run = run_of(pack, tmp_path, {100: line})
    without = [record(step) for step in range(1, STEPS + 1) if step != 100]
    problems = ["log.jsonl: damaged line 100 is skipped"]
    assert run.lines(STEPS) == without
    assert run.problems == problems
    assert (run.lines(99), run.lines(120), run.preview_lines()) == (without[:99], without[:119], [])
    # The run goes on from step 150: the log has all other lines of before, and the damage is said once.
    run.start_log(150)
    assert (tmp_path / "log.jsonl").read_text() == "".join(json.dumps(each) + "\n" for each in without[:149])
    assert run.lines(150) == without[:149]
    assert run.problems == problems
    run.log(record(151))
    assert [each["step"] for each in run.lines(STEPS)] == [*range(1, 100), *range(101, 152)]


def test_several_damaged_lines_are_one_problem(pack: Any, tmp_path: Path) -> None:
    run = run_of(pack, tmp_path, dict.fromkeys(range(3, 21, 2), "x") | {30: ""})  # an empty line is none
    assert [each["step"] for each in run.lines(STEPS)] == [
        step for step in range(1, STEPS + 1) if step not in range(3, 21, 2) and step != 30
    ]
    assert run.problems == ["log.jsonl: 9 damaged lines are skipped (3, 5, 7, 9, 11 and others)"]
    assert pack.trainers.run.history.problems(tmp_path) == [f"{run.problems[0]}."]


def test_a_last_line_that_a_kill_has_cut_off_is_no_problem(pack: Any, tmp_path: Path) -> None:
    run = run_of(pack, tmp_path, {STEPS: text(STEPS)[:30]}, end="")
    assert run.lines(STEPS) == [record(step) for step in range(1, STEPS)]
    run.start_log(STEPS - 1)
    assert (tmp_path / "log.jsonl").read_text() == "".join(text(step) + "\n" for step in range(1, STEPS))
    assert run.problems == []
    whole = run_of(pack, tmp_path, {}, end="")
    assert len(whole.lines(STEPS)) == STEPS
    ended = run_of(pack, tmp_path, {STEPS: text(STEPS)[:30]})
    assert len(ended.lines(STEPS)) == STEPS - 1
    assert ended.problems == [f"log.jsonl: damaged line {STEPS} is skipped"]


def test_a_step_that_is_there_twice_counts_once(pack: Any, tmp_path: Path) -> None:
    """The later line is that of the run that went on."""
    again = json.dumps(record(100) | {"seconds": 9.0})
    run = run_of(pack, tmp_path, {101: again, 102: text(101)})
    lines = run.lines(110)
    assert [each["step"] for each in lines] == [step for step in range(1, 111) if step != 102]
    assert lines[99]["seconds"] == 9.0


def test_scored_previews_stay_beside_a_damaged_line(pack: Any, tmp_path: Path) -> None:
    run = run_of(pack, tmp_path, {20: SCORED, 30: SCORED.replace("0.5", '"high"'), 40: "x"})
    assert run.preview_lines() == [json.loads(SCORED)]
    run.start_log(60)
    assert run.preview_lines() == [json.loads(SCORED)]
    assert run.problems == ["log.jsonl: 2 damaged lines are skipped (30, 40)"]
    assert pack.trainers.run.history.preview_scores(tmp_path) == [[50, {"DINO": 0.5}]]


def test_a_run_that_goes_on_knows_its_peak_and_says_no_wrong_sum(pack: Any, tmp_path: Path) -> None:
    """The seconds of one step are lost: their sum is not known, their median and the peak are of the other ones."""
    device = torch.device("cpu")
    whole, gap = pack.trainers.run.meter.Meter(device), pack.trainers.run.meter.Meter(device)
    whole.go_on(run_of(pack, tmp_path, {}).lines(STEPS))
    gap.go_on(run_of(pack, tmp_path, {1: "x"}).lines(STEPS))
    complete, lacking = whole.cost(STEPS, 1, 4), gap.cost(STEPS, 1, 4)
    assert complete.seconds == 0.25 * STEPS * (STEPS + 1) / 2
    assert lacking.seconds is None
    assert (complete.seconds_a_step, lacking.seconds_a_step) == (0.25 * 100.5, 0.25 * 101)
    assert complete.peak_bytes == lacking.peak_bytes == 2**20 + STEPS


def test_the_moving_average_passes_over_a_gap(pack: Any) -> None:
    generator = np.random.default_rng(3)
    values = generator.random(60)
    values[[0, 20, *range(30, 40)]] = np.nan
    means = pack.plots.smoothed(list(values))
    for place, mean in enumerate(means):
        window = values[max(0, place - 4) : place + 1]
        numbers = window[~np.isnan(window)]
        assert mean == pytest.approx(numbers.mean(), abs=1e-12) if len(numbers) else math.isnan(mean)
    assert np.isnan(means).sum() == 7  # the first one, and six of the ten


def test_the_plot_of_a_gap(pack: Any) -> None:
    """Rates that are all the same but for a gap have no axis of their own."""
    losses = [1 / step for step in range(1, 41)]
    whole, gap = list(losses), [*losses[:9], math.nan, *losses[10:]]
    rates = [1e-4] * 40
    gaps = [*rates[:9], math.nan, *rates[10:]]
    assert np.array_equal(pack.plots.training_picture(whole, rates), pack.plots.training_picture(whole, gaps))
    assert not np.array_equal(pack.plots.training_picture(whole, rates), pack.plots.training_picture(gap, gaps))
