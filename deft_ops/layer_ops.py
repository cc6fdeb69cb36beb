"""How a rank-r pair acts on the activations of a layer: linear (channels last) and 2-D convolution (channels first)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LinearOp:
    """A linear layer: x is [..., in], the layer's output [..., out]."""

    def down(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Apply matrix [r, in] as the layer would apply its weight: [..., in] -> [..., r]."""
        return F.linear(x, matrix)

    def up(self, h: Tensor, matrix: Tensor) -> Tensor:
        """Mix channels with matrix [c_out, c_in]: [..., c_in] -> [..., c_out]."""
        return F.linear(h, matrix)


@dataclass(frozen=True)
class Conv2dOp:
    """A 2-D convolution with zero padding and one group: x is [n, in, h, w]."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def down(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Convolve with matrix [r, in * kh * kw] as with the layer's weight: [n, in, h, w] -> [n, r, h', w']."""
        kernel = matrix.unflatten(1, (-1, *self.kernel_size))
        return F.conv2d(x, kernel, None, self.stride, self.padding, self.dilation)

    def up(self, h: Tensor, matrix: Tensor) -> Tensor:
        """Mix channels with matrix [c_out, c_in], a 1 x 1 convolution: [n, c_in, h, w] -> [n, c_out, h, w]."""
        return F.conv2d(h, matrix[:, :, None, None])


LayerOp = LinearOp | Conv2dOp


def op_of(module: Any) -> LayerOp:
    """The operation of a linear or 2-D convolution module, told by its attributes.

    Raises ValueError for grouped, transposed or non-zero-padded convolutions and for any other kind of layer.
    """
    name = type(module).__name__
    kernel_size = getattr(module, "kernel_size", None)
    if kernel_size is None:
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            return LinearOp()
        raise ValueError(f"{name} layers cannot carry an adapter on activations: only linear and 2-D convolution can.")
    if len(kernel_size) != 2 or module.transposed:
        raise ValueError(f"{name} layers cannot carry an adapter on activations: only linear and 2-D convolution can.")
    if module.groups != 1:
        raise ValueError(f"A {name} with {module.groups} groups cannot carry an adapter: leave grouped layers out.")
    if module.padding_mode != "zeros":
        raise ValueError(f"A {name} with padding mode {module.padding_mode!r} cannot carry an adapter: leave it out.")
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    return Conv2dOp(tuple(kernel_size), tuple(module.stride), padding, tuple(module.dilation))
