"""Optimizers from well-kept packages, learning-rate schedules as functions of the step, and the moving average."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Name in the widget: package, class and, for optional packages, what to install.
OPTIMIZERS: dict[str, tuple[str, str, str]] = {
    "AdamW": ("torch.optim", "AdamW", ""),
    "AdamW 8-bit": ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes"),
    "Lion": ("lion_pytorch", "Lion", "lion-pytorch"),
    "Adafactor": ("torch.optim", "Adafactor", ""),
    "Prodigy": ("prodigyopt", "Prodigy", "prodigyopt"),
}
_WITH_BETAS = {"AdamW", "AdamW 8-bit", "Lion", "Prodigy"}


def make_optimizer(
    name: str, groups: list[dict[str, Any]], rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The optimizer over parameter groups, each with its `rate` relative to the learning rate.

    Raises:
        ValueError: a package that is not installed, with its name; several rates for Prodigy, which finds one for all.
    """
    if name == "Prodigy" and len({group["rate"] for group in groups} - {0.0}) > 1:
        raise ValueError("Prodigy finds one learning rate for all: set p_rate and text_rate to 1, or choose AdamW.")
    module, cls, package = OPTIMIZERS[name]
    try:
        make = getattr(importlib.import_module(module), cls)
    except ImportError as error:
        raise ValueError(
            f"The optimizer {name} needs the package {package!r}, which is not installed: install it with "
            f"`{sys.executable} -m pip install {package}` and start ComfyUI again, or choose AdamW."
        ) from error
    options: dict[str, Any] = {"betas": betas} if name in _WITH_BETAS else {}
    if name == "AdamW" and all(value.device.type in ("cpu", "cuda") for group in groups for value in group["params"]):
        options["fused"] = True  # one pass over a parameter instead of ten
    if name == "Adafactor":
        # Its steps are relative to a parameter's size, at least the second of these: an adapter starts at or near 0.
        options["eps"] = (None, 1.0)
    made: torch.optim.Optimizer = make(
        [group | {"lr": rate * group["rate"]} for group in groups], lr=rate, weight_decay=weight_decay, **options
    )
    return made


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


class Average:
    """An exponential moving average of parameters: a_t = d a_(t-1) + (1 - d) p_t, d = min(decay, (1 + t) / (10 + t)).

    The smaller d of the first steps is that of diffusers' EMAModel and of TensorFlow before it.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [parameter.detach().float().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor], step: int) -> None:
        """Take in the parameters after a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for value, parameter in zip(self.values, parameters, strict=True):
            value.lerp_(parameter.detach().float(), 1 - decay)
