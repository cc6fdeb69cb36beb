"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RateSchedule:
    """A schedule of the learning rate.

    words: how the learning rate goes, for the help page. formula: from the share of the steps after the warm-up [0, 1)
    and the number of cycles to the factor of the learning rate. uses_steps: whether the factor of a step depends on how
    many steps there are; where it does not, a run goes on with more steps.
    """

    words: str
    formula: Callable[[float, int], float]
    uses_steps: bool = True


def _constant(done: float, cycles: int) -> float:
    return 1.0


def _linear(done: float, cycles: int) -> float:
    return 1.0 - done


def _cosine(done: float, cycles: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _restarts(done: float, cycles: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * ((cycles * done) % 1.0))) if done < 1 else 0.0


SCHEDULES: dict[str, RateSchedule] = {
    "constant": RateSchedule("stays the same; the run can be continued with more steps", _constant, uses_steps=False),
    "linear": RateSchedule("falls evenly to 0", _linear),
    "cosine": RateSchedule("falls to 0 along half a cosine: slowly at first and at the end", _cosine),
    "cosine with restarts": RateSchedule("a cosine in each cycle, from the full learning rate again", _restarts),
}


def rate_factor(schedule: str, step: int, steps: int, warm_up: int = 0, cycles: int = 1) -> float:
    """The factor of the learning rate for a step that is counted from 0, as diffusers' get_scheduler has it."""
    if step < warm_up:
        return step / max(1, warm_up)
    return SCHEDULES[schedule].formula((step - warm_up) / max(1, steps - warm_up), cycles)
