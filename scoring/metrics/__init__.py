"""What is measured: one file a metric, one line in METRICS, whose order is that of tables. No tensors are needed here.

`likeness` is what several metrics have in common, and what a metric by the name of a custom model is.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import (
    clip_i,
    clip_t,
    copying,
    dino,
    dinov2,
    dinov3,
    diversity,
    dreamsim,
    drift,
    likeness,
    lpips,
    pickscore,
    pres,
    siglip2_i,
    siglip2_t,
)
from .base import Better, Comparison, Metric, OfFeatures, OfPictures, Role

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        clip_i.METRIC,
        clip_t.METRIC,
        dino.METRIC,
        dinov2.METRIC,
        dinov3.METRIC,
        siglip2_i.METRIC,
        siglip2_t.METRIC,
        dreamsim.METRIC,
        pickscore.METRIC,
        copying.METRIC,
        drift.METRIC,
        pres.METRIC,
        lpips.METRIC,
        diversity.METRIC,
    )
}

__all__ = [
    "METRICS",
    "Comparison",
    "Metric",
    "OfFeatures",
    "OfPictures",
    "Role",
    "better",
    "decisive",
    "get_metric",
    "order",
    "role_of",
]


def get_metric(name: str) -> Metric:
    """The metric of that name; of a name that is not in METRICS, the likeness by a custom model."""
    return METRICS.get(name) or likeness.metric(name, "likeness to the subject's pictures, by a custom model")


def better(metric: str) -> Better:
    """The good direction of a metric."""
    return get_metric(metric).better


def decisive(names: Iterable[str]) -> str:
    """Which of some metrics decides between checkpoints, see `Metric.decides`; empty where none does."""
    metrics = [metric for metric in map(get_metric, names) if metric.better == "higher" and metric.decides is not None]
    return max(metrics, key=lambda metric: metric.decides or 0).name if metrics else ""


def order(metric: str) -> tuple[int, str]:
    """The sort key of a metric: in the order of METRICS, custom ones last."""
    return (list(METRICS).index(metric) if metric in METRICS else len(METRICS)), metric


def role_of(pairing: str) -> Role | None:
    """The role that a pairing of a record compares with; None for a pairing that is not listed here."""
    return next(
        (
            comparison.role
            for metric in METRICS.values()
            for comparison in metric.comparisons
            if comparison.pairing == pairing
        ),
        None,
    )
