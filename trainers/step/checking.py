"""The first step's gradient beside a finite difference, where nobody has tried this model on this ComfyUI."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, Any

import torch

from ...models.titles import class_of, title_of
from .bases import TRAINED

if TYPE_CHECKING:
    from ..run.trainer import Trainer

# The newest ComfyUI on which tests/comfy was run. docs/limits.md names all of them.
NEWEST_TESTED = (0, 33, 0)
# How far the loss is to move, relative to itself, and how well both have to agree at one of these lengths: long ones
# meet the curvature of the loss, short ones its rounding.
LENGTHS = {
    torch.float32: (1e-1, 1e-2, 1e-3, 1e-4),
    torch.bfloat16: (3e-1, 1e-1, 3e-2, 1e-2),
    torch.float16: (3e-1, 1e-1, 3e-2, 1e-2, 1e-3),
}
AGREES = {torch.float32: 0.1, torch.bfloat16: 0.3, torch.float16: 0.2}


def core_version() -> tuple[int, ...]:
    """ComfyUI's version; one that cannot be read counts as newer than all."""
    try:
        import comfyui_version

        return tuple(int(number) for number in re.findall(r"\d+", comfyui_version.__version__)[:3])
    except (ImportError, AttributeError):
        return (math.inf,)  # type: ignore[return-value]


def reason(trainer: Trainer) -> str:
    """Why the gradient has to be checked; empty if it has been tried in the pack's tests."""
    if core_version() > NEWEST_TESTED:
        return f"ComfyUI is newer than {'.'.join(map(str, NEWEST_TESTED))}, the last one that was tested"
    if class_of(trainer.model.model) not in TRAINED:
        return f"{title_of(trainer.model.model)} is not one of the tested bases"
    return "it is written for inference" if trainer.repairs.text_line() else ""


@torch.no_grad()
def first_step(trainer: Trainer, random: dict[str, Any]) -> str:
    """Compare the gradients that the parameters have now with the losses on both sides; a line for the report.

    With the gradient g of all parameters and a step e along g / |g|, (L(+e) - L(-e)) / 2 e has to be |g|. Nothing is
    changed in the end; `random` is where the random numbers of this step began. Where the differences do not even agree
    among themselves, the gradient cannot be checked, and the line says that.

    Raises:
        ValueError: the differences of two lengths agree with each other, and not with the gradient.
    """
    why = reason(trainer)
    if not why:
        return ""
    parameters = [parameter for parameter in trainer.parameters if parameter.grad is not None]
    gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    norm = math.sqrt(sum(float(gradient.float().norm()) ** 2 for gradient in gradients))
    if not math.isfinite(norm):
        return ""  # which is an error of its own
    if not norm:
        raise ValueError(
            f"The gradient of {trainer.repairs.model_name} is zero at the first step ({why}): nothing reaches the "
            "trained layers. Choose other layers or another base, and please report it."
        )
    agrees = AGREES.get(trainer.precision.dtype, 0.1)
    values_now = [parameter.clone() for parameter in parameters]

    def loss_at(length: float) -> float:
        for parameter, start, gradient in zip(parameters, values_now, gradients, strict=True):
            parameter.copy_(start + length / norm * gradient)
        trainer.set_random_state(random)
        return trainer.accumulated()

    slopes = []
    try:
        here = loss_at(0.0)
        for share in LENGTHS.get(trainer.precision.dtype, LENGTHS[torch.float32]):
            length = share * abs(here) / norm
            slopes.append((loss_at(length) - loss_at(-length)) / (2 * length))
            if abs(slopes[-1] - norm) <= agrees * norm:
                return f"gradient checked by finite differences ({why}): {norm:.4g}, from losses {slopes[-1]:.4g}"
    finally:
        for parameter, start, gradient in zip(parameters, values_now, gradients, strict=True):
            parameter.copy_(start)
            parameter.grad = gradient
    pairs = [pair for pair in itertools.pairwise(slopes) if math.isclose(*pair, rel_tol=agrees)]
    if not pairs:
        values = ", ".join(f"{value:.3g}" for value in slopes)
        return (
            f"WARNING: the gradient could not be checked ({why}): it is {norm:.4g}, and finite differences give "
            f"{values}"
        )
    nearest = min((sum(pair) / 2 for pair in pairs), key=lambda value: abs(value - norm))
    raise ValueError(
        f"The gradient of {trainer.repairs.model_name} is wrong ({why}): it is {norm:.4g}, but finite differences "
        f"give {nearest:.4g}. Nothing was trained. Use another version of ComfyUI, precision fp32 or another base, and "
        "please report it."
    )
