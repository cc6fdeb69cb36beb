"""Whether a run's learning rate is far from those that its method was published with."""

from __future__ import annotations

from .optimizers import OPTIMIZERS
from .settings import Settings

FAR = 10.0  # times
_ROUNDED = 1e-9  # what a quotient of two decimal numbers may be off


def in_short(rate: float) -> str:
    """A learning rate as people write it: 2.5e-6."""
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def far_from_usual(settings: Settings) -> str:
    """A text for a learning rate ten times off those that are usual for the method, as data in its record has them.

    Those are for AdamW; for another optimizer they are scaled as its own record has it. Empty: not far, or nothing to
    compare with.
    """
    usual = None if settings.trains_token else settings.training.usual_rates
    scale = OPTIMIZERS[settings.optimizer].to_adamw
    rate = settings.learning_rate
    if usual is None or scale is None or not rate:
        return ""
    lowest, highest = usual.lowest * scale, usual.highest * scale
    if rate / highest >= FAR - _ROUNDED:
        off = f"{rate / highest:.3g} times the usual one"
    elif lowest / rate >= FAR - _ROUNDED:
        off = f"{lowest / rate:.3g} times below the usual one"
    else:
        return ""
    numbers = in_short(lowest) if lowest == highest else f"{in_short(lowest)} to {in_short(highest)}"
    with_optimizer = "" if scale == 1 else f" with {settings.optimizer}"
    return f"learning rate {in_short(rate)} is {off} for {settings.method}{with_optimizer} ({numbers}, {usual.source})"
