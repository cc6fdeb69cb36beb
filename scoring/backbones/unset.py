"""Building a network for weights that a file has: its random initial values are not drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..weights import finite

# By name: PyTorch's `init` and its tensors' methods have the same ones, and so has what transformers puts in its place.
_DRAWN = {
    *("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_"),
    *("kaiming_normal_", "orthogonal_"),
}
MADE = {"rand", "randn"}
STEP = "erfinv_"  # of timm's truncated normal


class Unset(TorchFunctionMode):
    """A context in which PyTorch's random initial values are NaN; constants and buffers are what they are otherwise.

    Drawing takes most of the time that building a network needs. NaN and not whatever lies in the memory: a weight that
    no file has set shows in `unset` and in every feature. PyTorch's random numbers stay where they are.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of PyTorch's, which calls this in its place."""
        named = named or {}
        name = getattr(function, "__name__", "")
        if name == STEP:
            return arguments[0]
        if name in _DRAWN:
            tensor = arguments[0] if arguments else named["tensor"]
        elif name in MADE:
            tensor = torch.empty(*arguments, **{key: value for key, value in named.items() if key != "generator"})
        else:
            return function(*arguments, **named)
        with torch.no_grad():
            return tensor.fill_(torch.nan)


def unset(module: torch.nn.Module) -> list[str]:
    """The names of tensors that hold NaN."""
    return [name for name, value in module.state_dict().items() if value.is_floating_point() and not finite(value)]
