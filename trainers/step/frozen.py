"""Frozen layers that pass gradients through without keeping or copying their weights.

Nodes run under torch.inference_mode, so a loaded model's weights are inference tensors, which autograd refuses to save.
A frozen linear or convolution needs only its input gradient, and that needs only the weight, which the module holds
anyway. So the autograd function keeps the module and asks it for the weight in the backward pass: no copy of the model,
no weight gradient, and offloaded or quantised weights work as in sampling. Where the weight is at hand (see `at_hand`),
which is most often, nothing has to be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...deft_ops import convolution
from ...deft_ops.layer_ops import ConvOp, LayerOp, op_of
from ...models.layers import is_linear
from ...models.stored import is_at_hand, weight_of
from .at_hand import AtHand, Function, Own

_CONVOLUTIONS = {
    nn.Conv1d: torch.nn.grad.conv1d_input,
    nn.Conv2d: torch.nn.grad.conv2d_input,
    nn.Conv3d: torch.nn.grad.conv3d_input,
}
# Where PyTorch makes a linear layer of products, which keep the weight alone; elsewhere it keeps the input too.
OF_PARTS = ("cpu", "cuda")


def plain_op(module: nn.Module) -> LayerOp | None:
    """The layer's operation, or None for what no adapter can be on: several groups, padding with other than zeros."""
    try:
        return op_of(module)
    except ValueError:
        return None


def input_gradient(module: nn.Module, weight: Tensor, grad: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the input [shape] of the module, with this weight, from that of its output."""
    if is_linear(module):
        return (grad @ weight).reshape(shape)
    op = plain_op(module)
    if op is not None and convolution.suits(op, shape, weight):
        return convolution.input_gradient(op, shape, weight, grad)  # type: ignore[arg-type]
    conv = next(function for kind, function in _CONVOLUTIONS.items() if isinstance(module, kind))
    arguments = module.dilation, module.groups
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return conv(shape, weight, grad, module.stride, module.padding, *arguments)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    pad = partial(F.pad, pad=module._reversed_padding_repeated_twice, mode=mode)
    padded, through_padding = torch.func.vjp(pad, grad.new_zeros(shape))
    (of_x,) = through_padding(conv(padded.shape, weight, grad, module.stride, 0, *arguments))
    return of_x


def quick_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The module's forward; of a convolution whose weight can be used as it lies, as a product if that is faster."""
    run, op = module.forward, plain_op(module)
    if "forward" in module.__dict__ or not isinstance(op, ConvOp):  # somebody else's forward is not to be passed over
        return run

    def forward(x: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias
        plain = is_at_hand(module, x) and not getattr(module, "bias_function", ())
        if not plain or (bias is not None and bias.dtype != x.dtype) or not convolution.suits(op, x.shape, weight):
            return run(x)
        return convolution.convolve(op, x, weight, bias)

    return forward


class FrozenLayer(Function):
    """y = layer(x) with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.module, ctx.shape, ctx.dtype = module, x.shape, x.dtype
        return run(x).detach()  # a view made in here could not be written into by the network

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with weight_of(ctx.module, grad) as weight:
            return input_gradient(ctx.module, weight, grad, ctx.shape).to(ctx.dtype), None, None


class FrozenLinear(Function):
    """The same for a linear layer whose weight is at hand, where PyTorch's own is not the same or keeps more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, own: Own) -> Tensor:
        ctx.module, ctx.weight, ctx.shape = module, own[0], x.shape
        return F.linear(x, *own).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return input_gradient(ctx.module, ctx.weight, grad, ctx.shape), None, None


class FrozenConvolution(Function):
    """The same for a convolution whose weight is at hand. PyTorch's own would keep its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, own: Own) -> Tensor:
        ctx.module, ctx.weight, ctx.shape = module, own[0], x.shape
        return module._conv_forward(x, *own).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        module, weight = ctx.module, ctx.weight
        # PyTorch asks for the input, of which it reads the shape alone.
        arguments = module.stride, module.padding, module.dilation, False, [0], module.groups, (True, False, False)
        of_x, _, _ = torch.ops.aten.convolution_backward(grad, grad.new_empty(ctx.shape), weight, None, *arguments)
        return of_x, None, None


class FrozenProduct(Function):
    """The same for a convolution as a matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, product: convolution.Product, own: Own) -> Tensor:
        ctx.product, ctx.weight = product, own[0]
        return product.forward(x, *own).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.product.input_gradient(ctx.weight, grad), None, None


def frozen_convolution(module: Any, run: Callable[[Tensor], Tensor], at_hand: AtHand) -> Callable[[Tensor], Tensor]:
    """The forward of a frozen convolution; as a product where that is faster (see deft_ops/convolution.py)."""
    op, products = plain_op(module), dict[torch.Size, convolution.Product | None]()
    of_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)

    def forward(x: Tensor) -> Tensor:
        own = at_hand.of(x) if of_zeros else None
        if own is None:
            return FrozenLayer.apply(x, module, run)
        if x.shape not in products:
            products[x.shape] = None
            if isinstance(op, ConvOp) and convolution.suits(op, x.shape, own[0]):
                products[x.shape] = convolution.Product(op, x.shape)
        product = products[x.shape]
        if product is None:
            return FrozenConvolution.apply(x, module, own)
        # Of kernels of one pixel PyTorch's own gradient is the same product, and keeps the weight alone.
        return product.forward(x, *own) if product.pointwise else FrozenProduct.apply(x, product, own)

    return forward


def frozen_forward(module: nn.Module, run: Callable[[Tensor], Tensor], at_hand: AtHand) -> Callable[[Tensor], Tensor]:
    """The forward of a frozen layer. `run` is its own, and `at_hand` what that computes on."""
    if not is_linear(module):
        return frozen_convolution(module, run, at_hand)

    def forward(x: Tensor) -> Tensor:
        own = at_hand.of(x)
        if own is None:
            return FrozenLayer.apply(x, module, run)
        if x.is_contiguous() and x.device.type in OF_PARTS:
            return F.linear(x, *own)
        return FrozenLinear.apply(x, module, own)

    return forward
