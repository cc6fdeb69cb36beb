"""Weights that an adapter would make infinite or not a number: every picture would be black, and nothing would say why.

No entry of a change is larger than the product of its factors' norms, with alpha and strength. Where that can be more
than the weight's numbers go to, the weight is computed once, for the few layers where it is largest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ..models.names import Target, target_key
from ..models.stored import is_plain

USUAL = 1000.0  # up to which the sums of an adapter's tensors are, and nothing is looked at: it costs time
_SMALLEST_LIMIT = torch.finfo(torch.float16).max
_MOST = 4  # weights that are computed


def check(patcher: Any, patches: Mapping[Target, Any], strength: float, source: str) -> None:
    """Raise ValueError, its message beginning with `source`, for a weight that is not finite with all of its patches.

    patcher: with the patches added.
    """
    sizes = {target_key(target): _size(patch) * abs(strength) for target, patch in patches.items()}
    large = [(key, size) for key, size in sizes.items() if not size < _SMALLEST_LIMIT]
    computed = 0
    for key, size in sorted(large, key=lambda pair: -pair[1]):
        weight = comfy.utils.get_attr(patcher.model, key)
        if not _has_a_range(weight) or size < torch.finfo(weight.dtype).max or computed == _MOST:
            continue
        computed += 1
        values = weight.detach().to(torch.float32, copy=True)
        if not torch.isfinite(values).all():
            continue  # the base's own
        result = comfy.lora.calculate_weight(patcher.patches[key], values, key)
        if not torch.isfinite(result.to(weight.dtype)).all():
            kind = str(weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"{source}: the weight {key} would exceed the range of {kind}, so every picture would be black. Lower "
                "the strength, or use another file: this one is damaged, or has been trained too far."
            )


def _has_a_range(weight: Any) -> bool:
    return is_plain(weight) and weight.is_floating_point() and weight.itemsize > 1 and weight.device.type != "meta"


def _size(patch: Any) -> float:
    """The product of the norms of all that a patch is made of; those below 1 count as 1."""
    parts = list(_parts(patch.weights if hasattr(patch, "weights") else patch))
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point() and part.numel()]
    tensors = [part if part.itemsize > 1 else part.float() for part in tensors]  # 8 bits have no norm
    norms = [float(norm) for norm in torch._foreach_norm(tensors)] if tensors else []
    numbers = [abs(part) for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
    product = math.prod(max(1.0, number) for number in (*norms, *numbers))
    return product if product == product else math.inf


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
    else:
        yield value
