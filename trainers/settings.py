"""What a training run is made of, and which of it decides the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..deft_ops import methods
from . import objective, optimisation
from .precision import PRECISIONS
from .targets import EVERYTHING, rank_rules

TOKEN = "textual_inversion"  # the method that has no layers: trainers/token.py
ADAPTER_PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """All of it. alpha None means a scale of 1; options go to the method's init and factors.

    Sources: the authors' code trains P with a tenth of R's learning rate (p_rate 0.1); PaRa (arXiv 2406.05641) keeps
    r below out / 40 (rank_cap 40). SVDiff's common implementation trains norms with a thousandth (norm_rate 0.001).
    """

    method: str
    rank: int
    steps: int
    learning_rate: float
    batch_size: int = 1
    alpha: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    # layers
    layers: str = "attention"
    pattern: str = ""
    exclude: str = ""
    blocks: str = ""
    ranks: str = ""
    rank_cap: float = 0.0
    # objective
    timesteps: str = "auto"
    shift: float = 0.0
    weighting: str = "none"
    gamma: float = 5.0
    loss: str = "mse"
    huber: float = 0.1
    noise_offset: float = 0.0
    prior_weight: float = 1.0
    caption_dropout: float = 0.0
    # optimisation
    optimizer: str = "AdamW"
    p_rate: float = 1.0
    text_rate: float = 1.0
    norm_rate: float = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: str = "constant"
    warm_up: int = 0
    cycles: int = 1
    accumulation: int = 1
    max_grad_norm: float = 1.0
    ema: float = 0.0
    # precision and memory
    precision: str = "auto"
    adapter_precision: str = "fp32"
    gradient_checkpointing: bool = False

    def check(self) -> None:
        """Raise ValueError, with the name of the setting, for a value that is none of the known or out of range."""
        if self.method != TOKEN:
            methods.trainable(self.method)
        for name, known in (
            ("precision", PRECISIONS),
            ("adapter_precision", ADAPTER_PRECISIONS),
            ("timesteps", tuple(objective.TIMESTEPS)),
            ("weighting", tuple(objective.WEIGHTINGS)),
            ("loss", tuple(objective.LOSSES)),
            ("optimizer", tuple(optimisation.OPTIMIZERS)),
            ("schedule", tuple(optimisation.SCHEDULES)),
        ):
            value = getattr(self, name)
            if value not in known:
                words = name.replace("_", " ")
                raise ValueError(f"Unknown {words} {value!r}: choose one of {', '.join(known)}.")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"The setting {name} must be from {low:g} to {high:g}, not {value:g}.")
        rank_rules(self.ranks)
        if self.layers == EVERYTHING and methods.trainable(self.method).LOW_RANK:
            raise ValueError(f"Norms cannot have a rank: choose other layers than {EVERYTHING!r} for {self.method}.")

    def identity(self) -> dict[str, Any]:
        """What decides the result of a step: everything but the number of steps where the schedule does not use it."""
        record = asdict(self)
        if self.schedule == "constant":
            del record["steps"]
        return record


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("steps", 1, float("inf")),
    ("batch_size", 1, float("inf")),
    ("learning_rate", 0, float("inf")),
    ("accumulation", 1, float("inf")),
    ("cycles", 1, float("inf")),
    ("warm_up", 0, float("inf")),
    ("rank_cap", 0, float("inf")),
    ("shift", 0, float("inf")),
    ("gamma", 1e-6, float("inf")),
    ("huber", 1e-6, float("inf")),
    ("noise_offset", 0, float("inf")),
    ("prior_weight", 0, float("inf")),
    ("caption_dropout", 0, 1),
    ("p_rate", 0, float("inf")),
    ("text_rate", 0, float("inf")),
    ("norm_rate", 0, float("inf")),
    ("weight_decay", 0, float("inf")),
    ("beta1", 0, 0.999999),
    ("beta2", 0, 0.999999),
    ("max_grad_norm", 0, float("inf")),
    ("ema", 0, 0.999999),
)


def digest(*parts: Mapping[str, Any]) -> str:
    """A short name for a run: the same for the same settings, data and base."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of what differs between two records."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
