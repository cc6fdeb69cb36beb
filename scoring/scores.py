"""Scores as records: each carries what is needed to compare it fairly with another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

METRICS = ("CLIP-I", "CLIP-T", "DINO", "DINOv2")


@dataclass(frozen=True)
class Score:
    """One metric of one batch of pictures.

    value: mean of `values`, which has one number an image (already multiplied by `scale`). text: the text that was
    scored against (CLIP-T), else empty. pairing: `all`, `matched` or `text`.
    """

    metric: str
    value: float
    values: tuple[float, ...]
    label: str
    subject: str
    text: str
    images: int
    references: int
    protocol: str
    pairing: str
    scale: float
    backbone: str
    preprocessing: str


@dataclass(frozen=True)
class Cost:
    """What the adapter behind a label has cost: seconds of training if known, values, bytes of its file's tensors."""

    label: str
    training_seconds: float | None
    values: int
    bytes: int


@dataclass(frozen=True)
class Scores:
    """Scores of one or more batches (the DEFT_SCORES socket), and what the adapters behind them have cost, if known."""

    rows: tuple[Score, ...]
    costs: tuple[Cost, ...] = ()

    def value(self, metric: str) -> float:
        """The mean of a metric over all images, or NaN where the protocol does not have it."""
        values = [value for row in self.rows if row.metric == metric for value in row.values]
        return sum(values) / len(values) if values else math.nan

    def report(self) -> str:
        """A few lines to read."""
        lines = [f"{row.label or 'images'}{' of ' + row.subject if row.subject else ''}: {row.metric} {row.value:.4f} "
                 f"({row.images} images, {row.references} {'texts' if row.pairing == 'text' else 'references'}; "
                 f"{row.protocol}: {row.backbone}, {row.pairing} pairs, scale {row.scale:g}, {row.preprocessing})"
                 for row in self.rows]
        return "\n".join(lines)

    def jsonl(self) -> str:
        """One JSON object a line and score, then one a line and cost."""
        lines = [asdict(row) for row in self.rows] + [asdict(cost) for cost in self.costs]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def join(parts: Iterable[Scores]) -> Scores:
    """All rows of several Scores, in order."""
    parts = list(parts)
    return Scores(tuple(row for part in parts for row in part.rows), tuple(c for part in parts for c in part.costs))
