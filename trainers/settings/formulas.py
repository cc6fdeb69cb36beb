"""What a training can choose of its objective, as formulas: noise levels, their weights, losses of the output's error.

With SNR = (signal / noise)^2 of x_t, and b the factor of the output in the clean latent (see `step/objective.py`),
Min-SNR is min(SNR, gamma) on x0 (arXiv 2303.09556, section 3.4), which is min(SNR, gamma) / SNR for epsilon and
min(SNR, gamma) / (SNR + 1) for v; the debiased loss is sqrt(SNR) on x0, 1 / sqrt(SNR) for epsilon (arXiv 2310.08442,
equation 14).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MODE_SCALE = 1.29  # of SD3's paper, table 1
MOST_SNR = 1000.0  # kohya's cap in the debiased loss: the last steps are nearly free of noise


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Shares of noise [count], all equally likely."""
    return torch.rand(count, generator=generator)


def logit_normal(count: int, generator: torch.Generator) -> Tensor:
    """Shares of noise [count] whose logits are normal."""
    return torch.sigmoid(torch.randn(count, generator=generator))


def _mode(count: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(count, generator=generator)
    return 1 - u - MODE_SCALE * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)


# How the share of noise u in (0, 1) is drawn. Sources: SD3 (arXiv 2403.03206) section 3.1, equations 19 and 20.
TIMESTEPS: dict[str, Callable[[int, torch.Generator], Tensor] | None] = {
    "auto": None,  # logit-normal for flow models, uniform for others
    "uniform": uniform,
    "logit-normal": logit_normal,
    "mode": _mode,
}


# -------------------------------------------------------------------------------------------------------------- weights


def _no_weight(snr: Tensor, b: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    return torch.ones_like(snr)


def _min_snr(snr: Tensor, b: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    return snr.clamp(max=gamma) * b.square()


def _debiased(snr: Tensor, b: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    return snr * b.square() / snr.clamp(max=MOST_SNR).sqrt()


def _sigma_sqrt(snr: Tensor, b: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    return sigma**-2.0


def _cosmap(snr: Tensor, b: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))


# The last two are SD3's (section 3.1), for flow models only.
WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "none": _no_weight,
    "min-SNR": _min_snr,
    "debiased": _debiased,
    "sigma_sqrt": _sigma_sqrt,
    "cosmap": _cosmap,
}
FLOW_WEIGHTINGS = ("sigma_sqrt", "cosmap")


# --------------------------------------------------------------------------------------------------------------- losses


def _squared(output: Tensor, target: Tensor, huber: float) -> Tensor:
    return (output - target).square()


def _pseudo_huber(output: Tensor, target: Tensor, huber: float) -> Tensor:
    return 2 * huber * (((output - target).square() + huber**2).sqrt() - huber)


def _absolute(output: Tensor, target: Tensor, huber: float) -> Tensor:
    return (output - target).abs()


# huber is the pseudo-Huber loss as diffusers' and kohya's scripts scale it: close to mse below the threshold.
LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "mse": _squared,
    "huber": _pseudo_huber,
    "l1": _absolute,
}
