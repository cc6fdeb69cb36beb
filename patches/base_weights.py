"""The plain values and the shape of a weight of a model, however it is stored, loaded or patched at the moment."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor


class Shapes(dict[str, tuple[int, ...]]):
    """Shape of each weight of a model by key, looked up when asked for. Quantised weights have that of their values."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, key: str) -> tuple[int, ...]:
        self[key] = tuple(comfy.utils.get_attr(self._model, key).shape)
        return self[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The shape, or `default` if the model has no such weight."""
        try:
            return self[key]
        except AttributeError:
            return default


def base_weight(patcher: Any, key: str) -> tuple[Tensor, str | None]:
    """The weight [out, in, ...] before any patch as float32, and a note if it had to be dequantised.

    A new tensor on the device where the weight lies. fp8, ComfyUI's scaled formats (QuantizedTensor) and layers that
    dequantise when asked (`get_weight`, as GGUF loaders have) are read. Raises ValueError for what none of this fits.
    """
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    elif key in getattr(patcher, "hook_backup", {}):
        weight = patcher.hook_backup[key][0]
    stored = quantised(weight)
    module = comfy.utils.get_attr(patcher.model, key.rpartition(".")[0])
    if convert is not None:
        # Layers of ComfyUI that can be quantised; a plain weight passes unchanged.
        plain = convert(weight, inplace=False)
    elif stored and hasattr(module, "get_weight"):
        plain = module.get_weight(weight, torch.float32)
    else:
        plain = weight
    if not plain.is_floating_point():
        raise ValueError(f"{key} is stored as {plain.dtype}, which is not read: load the base in fp16, bf16 or fp32.")
    plain = plain.detach().to(torch.float32, copy=True)
    return plain, f"dequantised from {stored}" if stored else None


def quantised(weight: Any) -> str | None:
    """What a weight is quantised as ("float8_e4m3fn", a layout's name), or None if it is plain."""
    layout = getattr(weight, "_layout_cls", None)
    if layout is not None:
        return str(getattr(layout, "__name__", layout))
    if isinstance(weight, torch.nn.Parameter) or type(weight) is Tensor:
        plain = weight.is_floating_point() and weight.element_size() > 1
        return None if plain else str(weight.dtype).removeprefix("torch.")
    return type(weight).__name__
