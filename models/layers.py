"""Layers of a loaded ComfyUI model: their modules, and their biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .stored import is_dynamic


def module_of(model: Any, key: str) -> Any:
    """The module that holds the weight of this key. Raises AttributeError if there is none."""
    module = model
    for name in key.split(".")[:-1]:
        inner = vars(module).get("_modules", {}).get(name)  # what getattr comes to, which looks elsewhere first
        module = getattr(module, name) if inner is None else inner
    return module


def bias_of(module: Any, output: Tensor, channel: int) -> Tensor | None:
    """The bias as the layer has just added it, patches of partly loaded layers included, shaped for its output."""
    bias = getattr(module, "bias", None)
    if bias is None:
        return None
    functions = list(getattr(module, "bias_function", []))
    if is_dynamic(module) and getattr(module, "bias_lowvram_function", None) is not None:
        functions.insert(0, module.bias_lowvram_function)
    bias = bias.to(output, copy=bool(functions))
    for function in functions:
        bias = function(bias)
    return bias.view([-1 if dim == channel else 1 for dim in range(output.ndim)])


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer; ComfyUI's layers of quantised weights are no torch.nn.Linear."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def is_linear_or_convolution(module: nn.Module) -> bool:
    """Whether the module is a linear or convolution layer that has a weight."""
    fits = is_linear(module) or isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return fits and getattr(module, "weight", None) is not None
