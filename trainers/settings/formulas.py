"""What a training can choose of its objective, as formulas: noise levels, their weights, losses of the output's error.

With SNR = (signal / noise)^2 of x_t, and b the factor of the output in the clean latent (see `step/objective.py`),
Min-SNR is min(SNR, gamma) on x0 (arXiv 2303.09556, section 3.4), which is min(SNR, gamma) / SNR for epsilon and
min(SNR, gamma) / (SNR + 1) for v; the debiased loss is sqrt(SNR) on x0, 1 / sqrt(SNR) for epsilon (arXiv 2310.08442,
equation 14).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


# The density 2 - 7.7 (u - 0.5)^2 of Chroma's trainer (lodestone-rock/flow, train_chroma_lora.py), up to its integral.
_HEIGHT, _FALL = 2.0, 7.7


def inverted_parabola(count: int, generator: torch.Generator) -> Tensor:
    """Shares of noise [count] whose density is a parabola with its top at 0.5, by its inverted distribution.

    With y = u - 0.5 the integral from 0 is h y - f y^3 / 3 = c. The root between the others of this cubic is
    y = a sin(asin(3 c / (a h)) / 3) with a = 2 sqrt(h / f), by sin 3x = 3 sin x - 4 sin^3 x.
    """
    integral = _HEIGHT - _FALL / 12
    c = (torch.rand(count, generator=generator).double() - 0.5) * integral
    a = 2 * math.sqrt(_HEIGHT / _FALL)
    return (0.5 + a * torch.sin(torch.asin(3 * c / (a * _HEIGHT)) / 3)).float()


@dataclass(frozen=True)
class Timesteps:
    """A choice of noise levels. words: which they are, for the help page. draw: shares of noise [count]; None: the
    model's or the recipe's.
    """

    words: str
    draw: Callable[[int, torch.Generator], Tensor] | None = None


OF_RECIPE = "recipe"  # the noise levels of the base's recipe
# How the share of noise u in (0, 1) is drawn. Sources: SD3 (arXiv 2403.03206) section 3.1, equations 19 and 20.
TIMESTEPS: dict[str, Timesteps] = {
    "auto": Timesteps("logit-normal for flow models (SD3, Flux ...), uniform for others"),
    "uniform": Timesteps("all levels equally often", uniform),
    "logit-normal": Timesteps("the middle levels most often, the ends hardly ever", logit_normal),
    "mode": Timesteps("the middle levels more often than the ends, as in SD3's paper", _mode),
    "inverted parabola": Timesteps("the middle levels more often, as in Chroma's trainer", inverted_parabola),
    # Put in its place by `by_recipe.with_noise`; as auto where there is no recipe.
    OF_RECIPE: Timesteps("as the base's reference trainer draws and shifts them"),
}


@dataclass(frozen=True)
class BySize:
    """A shift s = e^mu that follows the size, where mu is a line through two points.

    tokens, mu: of the two points. side: the side in pixels of the square that is a token.
    """

    tokens: tuple[int, int]
    mu: tuple[float, float]
    side: int

    def shift(self, width: int, height: int, frames: int = 1) -> float:
        """The shift of a picture of this size in pixels."""
        (x1, x2), (y1, y2) = self.tokens, self.mu
        count = frames * width * height / self.side**2
        return math.exp(y1 + (y2 - y1) * (count - x1) / (x2 - x1))


SAME_SHIFT = "none"  # of a shift by size: the same shift for all sizes
# By the names of the models that are trained and sampled so. Sources: sd-scripts, library/flux_train_utils.py
# (get_lin_function); musubi-tuner, training/trainer_base.py (qwen_shift, krea2_shift); LTX-Video-Trainer,
# timestep_samplers.py (the mean of a normal whose sigmoid is the share of noise).
SHIFTS: dict[str, BySize] = {
    "Flux": BySize((256, 4096), (0.5, 1.15), 16),
    "Qwen": BySize((256, 8192), (0.5, 0.9), 16),
    "Krea 2": BySize((256, 6400), (0.5, 1.15), 16),
    "LTX": BySize((1024, 4096), (0.95, 2.05), 32),
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


@dataclass(frozen=True)
class Weighting:
    """Weights of noise levels. about: which count more. formula: of SNR, b, share of noise and gamma, each [n] but the
    last. flow_only: for flow models only.
    """

    about: str
    formula: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    flow_only: bool = False

    @property
    def words(self) -> str:
        """What it does, for the help page."""
        return f"{self.about}; for flow models only" if self.flow_only else self.about


# The last two are SD3's (section 3.1).
WEIGHTINGS: dict[str, Weighting] = {
    "none": Weighting("all levels count the same", _no_weight),
    "min-SNR": Weighting("by the SNR, at most gamma, on the error of the clean picture", _min_snr),
    "debiased": Weighting("by the square root of the SNR, on the error of the clean picture", _debiased),
    "sigma_sqrt": Weighting("levels with little noise count most", _sigma_sqrt, flow_only=True),
    "cosmap": Weighting("the middle levels count most", _cosmap, flow_only=True),
}


# --------------------------------------------------------------------------------------------------------------- losses


def _squared(output: Tensor, target: Tensor, huber: float) -> Tensor:
    return (output - target).square()


def _pseudo_huber(output: Tensor, target: Tensor, huber: float) -> Tensor:
    return 2 * huber * (((output - target).square() + huber**2).sqrt() - huber)


def _absolute(output: Tensor, target: Tensor, huber: float) -> Tensor:
    return (output - target).abs()


@dataclass(frozen=True)
class Loss:
    """A loss. words: what it is, for the help page. formula: of output, target and threshold, value by value."""

    words: str
    formula: Callable[[Tensor, Tensor, float], Tensor]


# huber is the pseudo-Huber loss as diffusers' and kohya's scripts scale it: close to mse below the threshold.
LOSSES: dict[str, Loss] = {
    "mse": Loss("the squared error, as the models were trained", _squared),
    "huber": Loss(
        "squared for small errors, absolute above the setting huber: less sensitive to outliers", _pseudo_huber
    ),
    "l1": Loss("the absolute error: less sensitive to outliers", _absolute),
}
