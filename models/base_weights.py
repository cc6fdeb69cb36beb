"""The plain values and the shape of a weight of a model, however it is stored, loaded or patched at the moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.model_patcher
import comfy.utils
from torch import Tensor

from . import stored
from .layers import module_of


class Shapes(dict[str, tuple[int, ...]]):
    """The shape of each weight of a model by key, looked up when asked for; of a quantised weight that of its values.

    `patcher`, if given, has the weights from before its patches.
    """

    def __init__(self, model: Any, patcher: Any = None) -> None:
        super().__init__()
        self._model = model
        self._patcher = patcher

    def __missing__(self, key: str) -> tuple[int, ...]:
        self[key] = logical_shape(self._model, key)
        return self[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The shape, or `default` if the model has no such weight."""
        try:
            return self[key]
        except AttributeError:
            return default

    def weight(self, key: str) -> Tensor:
        """The weight itself, as `base_weight` gives it."""
        return base_weight(self._patcher or SimpleNamespace(model=self._model, backup={}), key)[0]


def logical_shape(model: Any, key: str) -> tuple[int, ...]:
    """The shape [out, in, ...] that the values of a weight have. Raises AttributeError if there is no such weight."""
    module = module_of(model, key)
    weight = getattr(module, key.rpartition(".")[2])
    return stored.logical_shape(weight, module) if key.endswith(".weight") else tuple(weight.shape)


def base_weight(patcher: Any, key: str) -> tuple[Tensor, str | None]:
    """The weight [out, in, ...] before any patch as float32, and a note if it had to be dequantised.

    A new tensor on the device where the weight lies. Raises ValueError for a format that `dequantised` does not read.
    """
    module = comfy.utils.get_attr(patcher.model, key.rpartition(".")[0])
    weight = comfy.utils.get_attr(patcher.model, key)
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    elif key in getattr(patcher, "hook_backup", {}):
        weight = patcher.hook_backup[key][0]
    kind = stored.quantised(weight)
    try:
        return stored.dequantised(weight, module), f"dequantised from {kind}" if kind else None
    except ValueError as error:
        raise ValueError(f"{key} {error}") from error
