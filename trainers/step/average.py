"""The moving average of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
