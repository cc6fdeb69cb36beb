"""Losses that have left their range: whether they have, and what can still be changed."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .trainer import Trainer

WINDOW, GROWTH = 10, 10.0  # steps and factor of a loss that has diverged


def advice(trainer: Trainer) -> str:
    """Advice for the error message: what can still be changed where numbers have left their range."""
    settings, changes = trainer.settings, []
    if trainer.precision.dtype != torch.float32:
        changes.append(f"use precision fp32 (now {trainer.precision.name})")
    if trainer.resumed:
        changes.append(f"remove {trainer.resumed}, from which it was resumed and which may be damaged")
    if trainer.losses:
        changes.append(f"lower the learning rate ({settings.learning_rate:g})")
    if not changes:
        changes.append(
            "check the base's file, the pictures and the captions, because the base itself returns no number for "
            "them before training"
        )
    return " or ".join(changes)


def check_growth(trainer: Trainer) -> None:
    """Raise ValueError if the losses have left all that a training does: far above the start, and above 1, which is
    what a network has that knows nothing. Median, because single ones jump.
    """
    now = statistics.median(trainer.losses[-WINDOW:])
    if len(trainer.losses) >= WINDOW and now > GROWTH * max(1.0, trainer.losses[0]):
        raise ValueError(
            f"The training diverges: the loss was {trainer.losses[0]:.3g} at first and is {now:.3g} at step "
            f"{trainer.step}. Lower the learning rate ({trainer.settings.learning_rate:g})."
        )
