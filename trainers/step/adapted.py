"""Layers with what is trained on them: one step of autograd each, which keeps neither the output nor the weight."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...deft_ops import changes
from ...deft_ops.changes import LowRank, Rescaled, WeightChange
from ...deft_ops.layer_ops import LayerOp, op_of
from ...models.layers import bias_of, is_linear
from .at_hand import AtHand, Function, Own
from .frozen import frozen_forward, input_gradient, weight_of

# Gives what an adapter changes of a layer, as it is in this step.
ChangeNow = Callable[[], changes.Change]
_NO_CONTEXT = nullcontext()
Optional = TypeVar("Optional", Tensor, Tensor | None)
# By the number of spatial dimensions.
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
WEIGHT_GRADIENTS = {1: torch.nn.grad.conv1d_weight, 2: torch.nn.grad.conv2d_weight, 3: torch.nn.grad.conv3d_weight}


def hidden_of(removed: Tensor | None, x: Tensor, down: Tensor | None, scale: float) -> Tensor:
    """scale x down^T - removed [n, r]; either term may be missing."""
    if down is None:
        assert removed is not None
        return removed.neg_()
    if removed is not None:
        return torch.addmm(removed, x, down.T, beta=-1, alpha=scale)
    return x @ down.T if scale == 1 else (x @ down.T).mul_(scale)


def in_dtype(factor: Optional, dtype: torch.dtype) -> Optional:
    """The factor, if there is one, in this dtype."""
    return factor if factor is None or factor.dtype == dtype else factor.to(dtype)


def add_gradient(factor: Tensor, gradient: Tensor) -> None:
    """Add to a leaf's gradient, in its dtype. Autograd does the same with a node for each leaf, which takes longer."""
    if gradient.stride() != factor.stride():  # optimizers go through both side by side
        gradient = torch.empty_like(factor).copy_(gradient)
    before = factor.grad
    factor.grad = gradient if before is None else before + gradient


class AdaptedLinear(Function):
    """z = y + up (scale down x - right^T (y - b)) for a frozen linear layer y = W x + b. right None: there is none.

    Kept for the backward pass are x, the hidden h [n, r] and the factors in the dtype of z, neither y nor z: with the
    gradients G of z and g = G up of h, those of the factors are G^T h (up), scale g^T x (down) and -W x^T g (right),
    and x gets (G - g right^T) W + scale g down. W comes from the module, or is `own`, where it is at hand. Where right
    is up, its gradient is the sum of both.

    `change` holds the factors. They are given a second time, for autograd; or not, where each is a leaf: then they get
    their gradients here, and `up` is given only where nothing else would ask for them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up: Tensor | None,
        down: Tensor | None,
        right: Tensor | None,
        change: LowRank,
        leaves: bool,
        module: nn.Module,
        run: Callable[[Tensor], Tensor],
        own: Own | None,
    ) -> Tensor:
        up, down, right, scale = change.up, change.down, change.right, change.scale
        removes = right is up
        # Detached, because autograd lets nobody write into a view, and OmniGen2 does.
        flat_x = x.reshape(-1, x.shape[-1])
        if own is None:
            z = run(x).contiguous().detach()
            rows, flat_x = z.view(-1, z.shape[-1]), flat_x.to(z.dtype)
        else:
            rows = F.linear(flat_x, *own)
            z = rows.view(*x.shape[:-1], rows.shape[-1]).detach()
        dtype = z.dtype
        ctx.module, ctx.own, ctx.change, ctx.leaves = module, own, change, leaves
        cast = up.dtype != dtype or (down is not None and down.dtype != dtype)
        if cast:
            up, down = up.to(dtype), in_dtype(down, dtype)
            right = up if removes else in_dtype(right, dtype)
        with _NO_CONTEXT if own is not None else torch.autocast(z.device.type, enabled=False):
            removed = None
            if right is not None:
                removed = rows @ right
                bias = bias_of(module, rows, 1) if own is None else own[1]
                if bias is not None:
                    removed -= bias.view(1, -1) @ right
            rows.addmm_(hidden := hidden_of(removed, flat_x, down, scale), up.T)
        if cast or not leaves:
            ctx.save_for_backward(x, hidden, up, down, None if removes else right)
        else:
            ctx.save_for_backward(x, hidden)
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, *cast = ctx.saved_tensors
        change = ctx.change
        removes, scale = change.right is change.up, change.scale
        up, down, right = cast or (change.up, change.down, change.right)
        removing = up if removes else right
        rows, flat_x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        if flat_x.dtype != grad.dtype:
            flat_x = flat_x.to(grad.dtype)
        inner = rows @ up
        # Few rows on the left: the same products with few columns on the right take up to twice as long.
        of_up = hidden.T @ rows
        product = inner.T @ flat_x
        of_down = None
        if down is not None:
            of_down = in_dtype(product if scale == 1 else scale * product, change.down.dtype)
        of_right = of_x = None
        with weight_of(ctx.module, grad) if ctx.own is None else _NO_CONTEXT as given:
            weight = ctx.own[0] if given is None else given
            if ctx.needs_input_grad[0]:
                of_y = rows if removing is None else torch.addmm(rows, inner, removing.T, alpha=-1)
                of_x = of_y @ weight
                if down is not None:
                    of_x.addmm_(inner, down, alpha=scale)
                of_x = of_x.view(x.shape).to(x.dtype)
            if removes:
                of_up = in_dtype(of_up, change.up.dtype).sub_(product @ weight.T)
            elif right is not None:
                of_right = (product @ weight.T).neg_().T.to(change.right.dtype)
        of_up = in_dtype(of_up, change.up.dtype).T
        if not ctx.leaves:
            return of_x, of_up, of_down, of_right, None, None, None, None, None
        for factor, gradient in ((change.up, of_up), (change.down, of_down), (change.right, of_right)):
            if gradient is not None:
                add_gradient(factor, gradient)
        return of_x, None, None, None, None, None, None, None, None


def for_autograd(x: Tensor, change: LowRank) -> tuple[Any, ...]:
    """What AdaptedLinear is given of a change on x: up, down, right, the change, whether its factors are leaves."""
    up, down, right = change.up, change.down, change.right
    leaves = (
        up.requires_grad
        and up.is_leaf
        and (down is None or (down.requires_grad and down.is_leaf))
        and (right is None or right is up or (right.requires_grad and right.is_leaf))
    )
    if leaves:
        return None if x.requires_grad else up, None, None, change, True
    return up, down, None if right is up else right, change, False


class ChangedLayer(Function):
    """y = (W + D) x + b + d for a linear layer or convolution, with gradients for x, D and d. W, b are the module's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Tensor, of_bias: Tensor | None, module: nn.Module) -> Tensor:
        with weight_of(module, x) as weight:
            changed = added(weight, change)
            if is_linear(module):
                y = F.linear(x, changed)
            else:
                arguments = module.stride, module.padding, module.dilation, module.groups
                y = _CONVOLUTIONS[change.ndim - 2](x, changed, None, *arguments)
        channel = op_of(module).channel(y)
        bias = bias_of(module, y, channel)
        if bias is not None:
            y += bias
        if of_bias is not None:
            y += of_bias.to(y).view([-1 if dim == channel else 1 for dim in range(y.ndim)])
        ctx.module, ctx.channel = module, channel
        ctx.save_for_backward(x, change, of_bias)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, change, of_bias = ctx.saved_tensors
        module, of_x = ctx.module, None
        if ctx.needs_input_grad[0]:
            with weight_of(module, grad) as weight:
                of_x = input_gradient(module, added(weight, change), grad, x.shape).to(x.dtype)
        like = x.to(grad.dtype)
        if is_linear(module):
            of_change = grad.reshape(-1, grad.shape[-1]).T @ like.reshape(-1, x.shape[-1])
        else:
            arguments = module.stride, module.padding, module.dilation, module.groups
            of_change = WEIGHT_GRADIENTS[change.ndim - 2](like, change.shape, grad, *arguments)
        dims = [dim for dim in range(grad.ndim) if dim != ctx.channel]
        return of_x, of_change.to(change.dtype), None if of_bias is None else grad.sum(dims).to(of_bias.dtype), None


def added(weight: Tensor, change: Tensor) -> Tensor:
    """The sum of a weight and its change, of the weight's shape and dtype; made in float32."""
    return (weight.float() + change.view(weight.shape)).to(weight.dtype)


def without_bias(module: nn.Module, op: LayerOp, y: Tensor) -> Tensor:
    """A layer's output less its bias."""
    bias = bias_of(module, y, op.channel(y))
    return y if bias is None else y - bias


def adapted_forward(
    module: nn.Module, run: Callable[[Tensor], Tensor], change: ChangeNow, at_hand: AtHand
) -> Callable[[Tensor], Tensor]:
    """The forward of a linear layer or a convolution with an adapter's change.

    `run` is its own, and `at_hand` what that computes on.
    """
    op, linear = op_of(module), is_linear(module)
    frozen = frozen_forward(module, run, at_hand)

    def forward(x: Tensor) -> Tensor:
        current = change()
        if isinstance(current, WeightChange):
            return ChangedLayer.apply(x, current.weight, current.bias, module)
        low_rank = current.low_rank if isinstance(current, Rescaled) else current
        if linear and isinstance(low_rank, LowRank) and low_rank.middle is None:
            y = AdaptedLinear.apply(x, *for_autograd(x, low_rank), module, run, at_hand.of(x))
            if not isinstance(current, Rescaled):
                return y
            return y + current.gain(op, without_bias(module, op, y))
        y = frozen(x)
        return y + current.forward(op, x, without_bias(module, op, y))

    return forward


def table_forward(run: Callable[..., Tensor], change: ChangeNow) -> Callable[..., Tensor]:
    """The forward of a large table of embeddings with a low-rank change. `run` is its own."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        current = change()
        assert isinstance(current, LowRank) and current.down is not None and current.middle is not None
        y = run(x, *args, **kwargs)
        return y + ((current.up[x] * current.middle) @ current.down).to(y)

    return forward


def place_change(module: nn.Module, kept: dict[str, Tensor], change: ChangeNow, dtype: torch.dtype) -> None:
    """Give a small module (a norm, a small table) its own weights `kept` with the change, as of this step.

    Not inside of its forward: some networks take a norm's weight themselves. The sum is in the finer of the stored and
    the computation's dtype.
    """
    current = change()
    if isinstance(current, LowRank):
        assert current.down is not None and current.middle is not None
        current = WeightChange((current.up * current.middle) @ current.down)
    assert isinstance(current, WeightChange)
    for name, value in (("weight", current.weight), ("bias", current.bias)):
        if value is not None:
            stored = kept[name].to(value.device)
            finer = torch.promote_types(stored.dtype, dtype)
            module._parameters[name] = added(stored.to(finer), value)
