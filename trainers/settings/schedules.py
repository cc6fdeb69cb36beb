"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable


def _constant(done: float, cycles: int) -> float:
    return 1.0


def _linear(done: float, cycles: int) -> float:
    return 1.0 - done


def _cosine(done: float, cycles: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _restarts(done: float, cycles: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * ((cycles * done) % 1.0))) if done < 1 else 0.0


# From the share of the steps after the warm-up [0, 1) to the factor of the learning rate.
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine with restarts": _restarts,
}


def rate_factor(schedule: str, step: int, steps: int, warm_up: int = 0, cycles: int = 1) -> float:
    """The factor of the learning rate for a step that is counted from 0, as diffusers' get_scheduler has it."""
    if step < warm_up:
        return step / max(1, warm_up)
    return SCHEDULES[schedule]((step - warm_up) / max(1, steps - warm_up), cycles)
