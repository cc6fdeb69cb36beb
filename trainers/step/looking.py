"""Checks of the base before the first step: what is broken in it would show after hours, or never."""

from __future__ import annotations

import math

from torch import Tensor, nn


def largest(weight: Tensor) -> float:
    """The largest absolute value; NaN if there is one in it."""
    return float(weight.detach().abs().max()) if weight.numel() else 0.0


def norm(values: Tensor) -> float:
    """The 2-norm, also of values whose squares leave float32's range."""
    top = largest(values)
    return top * float((values.detach().float() / top).norm()) if top and math.isfinite(top) else top


def check(name: str, weight: Tensor) -> bool:
    """Whether a layer's weight is all zeros.

    Raises:
        ValueError: a NaN or an infinity.
    """
    top = largest(weight)
    if not math.isfinite(top):
        raise ValueError(broken(name, "NaN" if math.isnan(top) else "infinity"))
    return not top


def broken(name: str, what: str) -> str:
    """The error message for a weight that holds no numbers."""
    return (
        f"The base's layer {name} holds a {what}, so nothing can be trained on it: load another file of the model, or "
        "remove the patches on it."
    )


def explain(root: nn.Module, precision: str) -> str:
    """Why a network's output is no number: the layer with a NaN or infinity, else that with the largest values."""
    peak = ("", 0.0)
    for name, value in root.named_parameters():
        if not value.dtype.is_floating_point or value.is_meta:
            continue
        top = largest(value.float() if value.element_size() < 2 else value)
        if not math.isfinite(top):
            return broken(name.removesuffix(".weight").removesuffix(".bias"), "NaN" if math.isnan(top) else "infinity")
        peak = max(peak, (name, top), key=lambda item: item[1])
    instead = "use precision fp32, " if precision != "fp32" else ""
    return (
        f"The base returns no number for a picture before training, in {precision}: {instead}check the "
        f"captions, or load another file of the model. Its largest value is {peak[1]:.3g}, in {peak[0]}."
    )


def relative_change(delta: Tensor, weight: Tensor) -> float:
    """|delta| / |weight|; infinite for a change of a weight of zeros, NaN for a change that is no number."""
    size, change = norm(weight), norm(delta)
    if not math.isfinite(change):
        return math.nan
    if not size:
        return math.inf if change else 0.0
    return change / size
