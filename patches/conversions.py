"""Files whose names ComfyUI turns into others before its loader reads them, and more of that kind."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.lora_convert
from torch import Tensor

from ..deft_ops.adapter import Adapter, spelling


def converted(adapter: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The adapter under names that the matcher reads, or itself if it has such names."""
    found = comfy.lora_convert.convert_lora(dict(adapter))
    if found.keys() == adapter.keys():
        return adapter
    result = Adapter(found, getattr(adapter, "metadata", {}))
    names = {id(tensor): spelling(adapter, key) for key, tensor in adapter.items()}
    result.spelled = {
        key: names[id(tensor)] for key, tensor in found.items() if names.get(id(tensor), key) != key
    }
    return result
