"""2-D convolutions of few pixels as matrix products, for the CPU.

oneDNN brings a convolution's weight into another order in every call. Where the weight is much larger than the
pictures, that takes longer than the convolution itself: with 1280 channels on 8 x 8 pixels 21 ms, against 8 ms for a
product, which reads the weight as it lies (fp32, two cores).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .layer_ops import ConvOp, LayerOp

# How many times as large as the unfolded pictures the weight must be: at 8 and more products were faster, at 4 slower.
_LARGER = 5
# Values of which PyTorch's fold takes less time than the calls of a loop over the kernel (same sums in the same order).
_FEW = 2**15
_DTYPES = (torch.float32, torch.bfloat16)  # a CPU has no fast product of float16


def padding_of(op: ConvOp) -> tuple[int, ...]:
    """The number of zeros on each side, for an operation that gives it as a number."""
    assert not isinstance(op.padding, str)
    return op.padding


def output_size(op: ConvOp, size: Sequence[int]) -> list[int]:
    """The size [h', w'] of the output for an input of size [h, w] (torch.nn.Conv2d's formula)."""
    sides = zip(size, padding_of(op), op.dilation, op.kernel_size, op.stride, strict=True)
    return [
        (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for length, padding, dilation, kernel, stride in sides
    ]


def is_pointwise(op: ConvOp) -> bool:
    """Whether each pixel of the output is made of the same pixel of the input alone."""
    return (op.kernel_size, op.stride, op.padding) == ((1, 1), (1, 1), (0, 0))


def suits(op: LayerOp, shape: Sequence[int], weight: Tensor) -> bool:
    """Whether `convolve` and `input_gradient` are the faster way for an input of shape [n, in, h, w]."""
    if not isinstance(op, ConvOp) or len(op.kernel_size) != 2 or isinstance(op.padding, str) or len(shape) != 4:
        return False
    if weight.device.type != "cpu" or weight.dtype not in _DTYPES:
        return False
    # The weight is out x (in kh kw), the unfolded pictures (in kh kw) x pixels.
    pixels = shape[0] * math.prod(output_size(op, shape[2:]))
    return is_pointwise(op) or len(weight) >= _LARGER * pixels


class Product:
    """A convolution of inputs of one shape [n, in, h, w] as a matrix product. What follows of the shape is worked out
    once: for small pictures that takes as long as the product.
    """

    def __init__(self, op: ConvOp, shape: Sequence[int]) -> None:
        self.op, self.shape = op, tuple(shape)
        self.pointwise, self.padding = is_pointwise(op), padding_of(op)
        self.size = output_size(op, self.shape[2:])

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of x with weight [out, in, kh, kw] and bias [out]: [n, out, h', w']."""
        op, matrix = self.op, weight.flatten(1)
        columns = x.flatten(2) if self.pointwise else F.unfold(x, op.kernel_size, op.dilation, self.padding, op.stride)
        columns = columns[0] if len(columns) == 1 else columns.transpose(0, 1).flatten(1)  # [in kh kw, n h' w']
        y = matrix @ columns if bias is None else torch.addmm(bias.unsqueeze(1), matrix, columns)
        if len(x) == 1:
            return y.view(1, len(matrix), *self.size)
        return y.view(len(matrix), len(x), *self.size).transpose(0, 1).contiguous()

    def input_gradient(self, weight: Tensor, grad: Tensor) -> Tensor:
        """The gradient of the input from that of the output [n, out, h', w']."""
        op, (count, channels, height, width) = self.op, self.shape
        matrix = weight.flatten(1)
        if self.pointwise:
            x = matrix.T @ grad.flatten(2).transpose(0, 1).flatten(1)
            return x.view(channels, count, height, width).transpose(0, 1).contiguous()
        rows = grad.movedim(1, -1).reshape(-1, len(matrix)) @ matrix
        if rows.numel() < _FEW:
            columns = rows.view(count, -1, rows.shape[1]).mT.float()
            x = F.fold(columns, (height, width), op.kernel_size, op.dilation, self.padding, op.stride)
            return x.to(grad.dtype)
        (top, left), (down, right), (below, beside) = self.padding, op.stride, op.dilation
        out_height, out_width = self.size
        pixels = rows.view(count, out_height, out_width, channels, -1)
        # What each place of the kernel gives goes to the pixel it has seen; channels last, so that pixels lie together.
        padded = torch.zeros(count, height + 2 * top, width + 2 * left, channels, dtype=torch.float32)
        for place, (row, column) in enumerate(product(*map(range, op.kernel_size))):
            first, start = row * below, column * beside
            seen = padded[:, first : first + down * out_height : down, start : start + right * out_width : right]
            seen += pixels[..., place]
        inside = padded[:, top : top + height, left : left + width]
        return inside.movedim(-1, 1).to(grad.dtype, memory_format=torch.contiguous_format)


def convolve(op: ConvOp, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x [n, in, h, w] with weight [out, in, kh, kw] and bias [out]: [n, out, h', w']."""
    return Product(op, x.shape).forward(x, weight, bias)


def input_gradient(op: ConvOp, shape: Sequence[int], weight: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the input of shape [n, in, h, w] from that of the output [n, out, h', w']."""
    return Product(op, shape).input_gradient(weight, grad)
