"""The base weights that an adapter file's layer names mean, for facts about the file that only they show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .base_weights import base_weight
from .names import Target, clip_names, model_names, part_of, target_key


def weights_by_name(model: Any = None, clip: Any = None) -> Callable[[str], Tensor | None]:
    """The weight [out, in, ...] before any patch, or its part, by layer name; None for other names.

    The names of a model are listed when the first is asked for.
    """
    targets: dict[str, tuple[Any, Target]] = {}

    def weight(name: str) -> Tensor | None:
        if not targets:
            if clip is not None:
                targets.update({key: (clip.patcher, target) for key, target in clip_names(clip).items()})
            if model is not None:
                targets.update({key: (model, target) for key, target in model_names(model).items()})
        if name not in targets:
            return None
        patcher, target = targets[name]
        try:
            return part_of(base_weight(patcher, target_key(target))[0], target)
        except ValueError:  # a format that is not read
            return None

    return weight
