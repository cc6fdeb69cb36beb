"""A rank-r pair on the activations of a layer: linear (channels last) and convolution (channels first)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class LinearOp:
    """A linear layer: x is [..., in], the layer's output [..., out].

    spatial: how many dimensions follow the channels.
    """

    spatial: ClassVar[int] = 0

    def down(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Apply matrix [r, in] as the layer would apply its weight: [..., in] -> [..., r]."""
        return F.linear(x, matrix)

    def up(self, h: Tensor, matrix: Tensor) -> Tensor:
        """Mix channels with matrix [c_out, c_in]: [..., c_in] -> [..., c_out]."""
        return F.linear(h, matrix)

    def scaled(self, h: Tensor, factors: Tensor) -> Tensor:
        """The channels times factors [c]."""
        return h * factors

    def channel(self, output: Tensor) -> int:
        """The dimension of the layer's output that holds the channels."""
        return output.ndim - 1


@dataclass(frozen=True)
class ConvOp:
    """A convolution of 1 to 3 dimensions with zero padding and one group: x is [n, in, ...] or [in, ...]."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]

    @property
    def spatial(self) -> int:
        """The number of dimensions after the channels."""
        return len(self.kernel_size)

    def down(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Convolve with matrix [r, in * kernel] as with the layer's weight: [n, in, ...] -> [n, r, ...]."""
        kernel = matrix.unflatten(1, (-1, *self.kernel_size))
        return _CONVOLUTIONS[len(self.kernel_size)](x, kernel, None, self.stride, self.padding, self.dilation)

    def up(self, h: Tensor, matrix: Tensor) -> Tensor:
        """Mix channels with matrix [c_out, c_in], a convolution of size 1: [n, c_in, ...] -> [n, c_out, ...]."""
        return _CONVOLUTIONS[len(self.kernel_size)](h, matrix.reshape(*matrix.shape, *(1 for _ in self.kernel_size)))

    def scaled(self, h: Tensor, factors: Tensor) -> Tensor:
        """The channels times factors [c]."""
        return h * factors.view(-1, *(1 for _ in self.kernel_size))

    def channel(self, output: Tensor) -> int:
        """The dimension of the layer's output that holds the channels."""
        return output.ndim - len(self.kernel_size) - 1


LayerOp = LinearOp | ConvOp


def op_of(module: Any) -> LayerOp:
    """The operation of a linear or convolution module, recognised by its attributes.

    Raises ValueError for grouped, transposed or non-zero-padded convolutions and for any other kind of layer.
    """
    name = type(module).__name__
    kernel_size = getattr(module, "kernel_size", None)
    if kernel_size is None:
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            return LinearOp()
        raise ValueError(f"{name} layers cannot have an adapter on activations: only linear and convolution can.")
    if len(kernel_size) not in _CONVOLUTIONS or module.transposed:
        raise ValueError(f"{name} layers cannot have an adapter on activations: only linear and convolution can.")
    if module.groups != 1:
        raise ValueError(f"A {name} with {module.groups} groups cannot have an adapter: exclude grouped layers.")
    if module.padding_mode != "zeros":
        raise ValueError(f"A {name} with padding mode {module.padding_mode!r} cannot have an adapter: exclude it.")
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    return ConvOp(tuple(kernel_size), tuple(module.stride), padding, tuple(module.dilation))
