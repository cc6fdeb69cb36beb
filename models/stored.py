"""The values of a layer's weight, however a loader stores it (plain, quantised by ComfyUI, GGUF, in dynamic VRAM).

No other module of the pack depends on how a weight is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

# Parameters that ComfyUI keeps beside a quantised weight, by the ends of their names.
_STORAGE = ("scale_weight", "scale_input", "weight_scale", "input_scale", "weight_scale_2", "comfy_quant")
# A layer's attributes through which ComfyUI moves (`_v`, of dynamic VRAM) or patches its tensors when it computes.
IN_A_PASS = ("_v", "weight_function", "bias_function")


def belongs_to_storage(key: str) -> bool:
    """Whether a parameter is a part of how another one is quantised, and has no values of its own."""
    return key.endswith(_STORAGE)


def is_plain(weight: Any) -> bool:
    """Whether a weight is a tensor of PyTorch's own, whatever its dtype."""
    return type(weight) in (Tensor, nn.Parameter)


def unpacks(module: Any) -> bool:
    """Whether a layer makes the values of its weight itself when asked, as those of GGUF loaders do."""
    return hasattr(module, "get_weight")


def is_dynamic(module: Any) -> bool:
    """Whether ComfyUI's dynamic VRAM moves the weight of a layer."""
    return hasattr(module, "_v")


def quantised(weight: Any) -> str | None:
    """The format that a weight is quantised in ("float8_e4m3fn", a layout's or GGUF type's name), None if plain."""
    if isinstance(weight, QuantizedTensor):
        return str(weight._layout_cls)
    if weight.is_floating_point() and weight.element_size() > 1:
        return None
    kind = getattr(weight, "tensor_type", None)  # of GGUF tensors
    return str(getattr(kind, "name", None) or weight.dtype).removeprefix("torch.")


def dequantised(weight: Any, module: Any = None) -> Tensor:
    """The values of a weight as a new float32 tensor; `module` is the layer that holds it.

    Read are plain and fp8 tensors, ComfyUI's quantised ones, and those of layers that dequantise when asked (ComfyUI's
    `convert_weight`, or `get_weight` as GGUF loaders have it). Raises ValueError for any other format.
    """
    if isinstance(weight, QuantizedTensor):
        plain = weight.dequantize()
    elif hasattr(module, "convert_weight"):
        plain = module.convert_weight(weight, inplace=False)
    elif unpacks(module) and (quantised(weight) or not is_plain(weight)):
        # GGUF loaders hang a model's patches on the tensor and apply them there.
        patches = getattr(weight, "patches", None)
        try:
            if patches:
                weight.patches = []
            plain = module.get_weight(weight, torch.float32)
        finally:
            if patches:
                weight.patches = patches
    else:
        plain = weight
    if not plain.is_floating_point():
        raise ValueError(f"is stored as {plain.dtype}, which is not supported: load the base in fp16, bf16 or fp32.")
    return plain.detach().to(torch.float32, copy=True)


def is_at_hand(module: Any, like: Tensor) -> bool:
    """Whether the weight can be used as it lies there, which saves a tenth of a millisecond in each layer."""
    weight = module.weight
    return (
        is_plain(weight)
        and weight.dtype == like.dtype
        and weight.device == like.device
        and not getattr(module, "weight_function", ())
        and not is_dynamic(module)
    )


def changes_in_a_pass(module: Any) -> bool:
    """Whether ComfyUI patches the weight or bias of a layer when it computes, or moves them then."""
    own = vars(module)  # a look-up that fails takes a microsecond in a module
    return bool(own.get("weight_function") or own.get("bias_function") or "_v" in own)


def logical_shape(weight: Any, module: Any) -> tuple[int, ...]:
    """The shape [out, in, ...] of the values of a layer's weight, which packed formats (4 bits) keep in another one."""
    if not weight.is_floating_point() and hasattr(module, "in_features"):
        return module.out_features, module.in_features
    return tuple(weight.shape)


def effective(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight as it acts on the layer's input, which some quantised layers (AWQ) scale by a vector first."""
    scale = getattr(module, "pre_quant_scale", None)
    return weight if scale is None else weight * scale.to(weight)


@contextmanager
def weight_of(module: nn.Module, like: Tensor) -> Iterator[Tensor]:
    """The module's weight on the device and in the dtype of `like`, wherever ComfyUI keeps it; dequantised."""
    stored: Any = module.weight
    if unpacks(module) and not is_plain(stored):  # with its patches
        yield module.get_weight(stored.to(like.device), like.dtype).to(like.dtype)
        return
    if is_at_hand(module, like):
        yield stored
        return
    if not hasattr(module, "comfy_cast_weights"):  # PyTorch's own layer: ComfyUI moves it as a whole
        yield stored.to(like.device, like.dtype)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        # Products with quantised tensors would round the gradient as well, or know only x W^T.
        yield effective(module, weight.dequantize().to(like.dtype) if isinstance(weight, QuantizedTensor) else weight)
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)
