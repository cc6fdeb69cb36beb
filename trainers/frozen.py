"""Frozen layers that pass gradients through without keeping or copying their weights.

Nodes run under torch.inference_mode, so a loaded model's weights are inference tensors, which autograd refuses to save.
A frozen linear or convolution needs only its input gradient, and that needs only the weight, which the module holds
anyway. So the autograd function keeps the module and asks it for the weight in the backward pass: no copy of the model,
no weight gradient, and offloaded or quantised weights work as in sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ..deft_ops import convolution
from ..deft_ops.layer_ops import ConvOp, LayerOp, op_of
from ..deft_ops.low_rank import LowRank
from ..patches.activations import bias_of

CONVOLUTIONS = {
    nn.Conv1d: torch.nn.grad.conv1d_input,
    nn.Conv2d: torch.nn.grad.conv2d_input,
    nn.Conv3d: torch.nn.grad.conv3d_input,
}
# Gives what an adapter changes of a layer, as it is in this step.
Change = Callable[[], LowRank]


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer; ComfyUI's layers of quantised weights are no torch.nn.Linear."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def is_frozen_kind(module: nn.Module) -> bool:
    """Whether the module is a linear or convolution layer, which this file can run frozen."""
    known = is_linear(module) or isinstance(module, tuple(CONVOLUTIONS))
    return known and getattr(module, "weight", None) is not None


def is_at_hand(module: Any, like: Tensor) -> bool:
    """Whether the weight can be used as it lies there, which saves a tenth of a millisecond in each layer."""
    weight = module.weight
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.dtype == like.dtype
        and weight.device == like.device
        and not getattr(module, "weight_function", ())
        and not hasattr(module, "_v")  # of dynamic VRAM
    )


@contextmanager
def weight_of(module: nn.Module, like: Tensor) -> Iterator[Tensor]:
    """The module's weight on the device and in the dtype of `like`, wherever ComfyUI keeps it; dequantised."""
    stored: Any = module.weight
    if hasattr(module, "get_weight") and type(stored) not in (Tensor, nn.Parameter):  # GGUF loaders, with patches
        yield module.get_weight(stored.to(like.device), like.dtype).to(like.dtype)
        return
    if is_at_hand(module, like):
        yield stored
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        # Products with quantised tensors would round the gradient as well, or know only x W^T.
        yield weight.dequantize().to(like.dtype) if isinstance(weight, QuantizedTensor) else weight
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


def plain_op(module: nn.Module) -> LayerOp | None:
    """The layer's operation, or None for what no adapter can be on: several groups, padding with other than zeros."""
    try:
        return op_of(module)
    except ValueError:
        return None


def input_gradient(module: nn.Module, grad: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the module's input [shape] from that of its output."""
    with weight_of(module, grad) as weight:
        if is_linear(module):
            return (grad @ weight).reshape(shape)
        op = plain_op(module)
        if op is not None and convolution.suits(op, shape, weight):
            return convolution.input_gradient(op, shape, weight, grad)  # type: ignore[arg-type]
        conv = next(function for kind, function in CONVOLUTIONS.items() if isinstance(module, kind))
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


class FrozenLayer(torch.autograd.Function):
    """y = layer(x) with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.module, ctx.shape, ctx.dtype = module, x.shape, x.dtype
        return run(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return input_gradient(ctx.module, grad, ctx.shape).to(ctx.dtype), None, None


def hidden_of(removed: Tensor | None, x: Tensor, down: Tensor | None, scale: float) -> Tensor:
    """scale x down^T - removed [n, r]; either term may be missing."""
    if down is None:
        assert removed is not None
        return removed.neg_()
    matrix = down.to(x.dtype).T
    return (x @ matrix).mul_(scale) if removed is None else torch.addmm(removed, x, matrix, beta=-1, alpha=scale)


class AdaptedLinear(torch.autograd.Function):
    """z = y + up (scale down x - right^T (y - b)) for a frozen linear layer y = W x + b.

    Kept for the backward pass are x, the hidden h [n, r] and the factors; neither y nor z: with the gradients G of z
    and g = G up of h, those of the factors are G^T h (up), scale g^T x (down) and -W x^T g (right), and x gets
    (G - g right^T) W + scale g down. W comes from the module.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor, down: Tensor | None, right: Tensor | None, scale: float, module: nn.Module,
        run: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        z = run(x).contiguous()
        rows, flat_x = z.view(-1, z.shape[-1]), x.reshape(-1, x.shape[-1])
        with torch.autocast(z.device.type, enabled=False):
            removed = None
            if right is not None:
                plain = right.to(z.dtype)
                removed = rows @ plain
                bias = bias_of(module, rows, 1)
                if bias is not None:
                    removed -= bias @ plain
            hidden = hidden_of(removed, flat_x.to(z.dtype), down, scale)
            rows.addmm_(hidden, up.to(z.dtype).T)
        ctx.module, ctx.scale = module, scale
        ctx.save_for_backward(x, hidden, up, down, right)
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, up, down, right = ctx.saved_tensors
        dtype, scale = grad.dtype, ctx.scale
        rows, flat_x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1]).to(dtype)
        inner = rows @ up.to(dtype)
        # Few rows on the left: the same products with few columns on the right take up to twice as long.
        of_up = (hidden.T @ rows).T.to(up.dtype)
        product = inner.T @ flat_x
        of_down = None if down is None else (scale * product).to(down.dtype)
        of_right = of_x = None
        with weight_of(ctx.module, grad) as weight:
            if ctx.needs_input_grad[0]:
                of_y = rows if right is None else torch.addmm(rows, inner, right.to(dtype).T, alpha=-1)
                of_x = of_y @ weight
                if down is not None:
                    of_x.addmm_(inner, down.to(dtype), alpha=scale)
                of_x = of_x.view(x.shape).to(x.dtype)
            if right is not None:
                of_right = (product @ weight.T).neg_().T.to(right.dtype)
        return of_x, of_up, of_down, of_right, None, None, None


def frozen_forward(
    module: nn.Module, run: Callable[[Tensor], Tensor], change: Change | None
) -> Callable[[Tensor], Tensor]:
    """The forward of a frozen layer, with an adapter's change if there is one."""
    if change is None:
        return lambda x: FrozenLayer.apply(x, module, run)
    if is_linear(module):

        def linear(x: Tensor) -> Tensor:
            found = change()
            return AdaptedLinear.apply(x, found.up, found.down, found.right, found.scale, module, run)

        return linear
    op = op_of(module)

    def convolution(x: Tensor) -> Tensor:
        y = FrozenLayer.apply(x, module, run)
        bias = bias_of(module, y, op.channel(y))
        return y + change().forward(op, x, y if bias is None else y - bias)

    return convolution


def of_a_copy(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same forward on a copy of its input."""
    return lambda x, *args, **kwargs: run(x.clone(), *args, **kwargs)


def own_forward(module: nn.Module) -> Callable[[], None]:
    """Remember whether the module has a forward of its own (an instance attribute), and return what restores it."""
    if "forward" in module.__dict__:
        before = module.__dict__["forward"]
        return lambda: setattr(module, "forward", before)
    return lambda: module.__dict__.pop("forward", None)


def small_tensors(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Tensors of the module itself that autograd refuses or would give a gradient: (dictionary, name, tensor)."""
    return [
        (store, name, tensor)
        for store in (module._parameters, module._buffers)
        for name, tensor in store.items()
        if tensor is not None and (tensor.is_inference() or tensor.requires_grad)
    ]


@contextmanager
def frozen(root: nn.Module, changes: dict[str, Change], in_place: bool = False) -> Iterator[None]:
    """Run `root` frozen inside the context, with adapters on the named layers; everything is restored after it.

    Linear and convolution layers run through FrozenLayer. What other modules hold themselves (norms, position tables)
    is small: it is cloned for the time of the training, because those tensors do get saved. Tables of token embeddings
    are large and never saved. `in_place`: the network adds to a norm's input in place (ComfyUI's text encoders do), so
    norms keep a copy of it.
    """
    restore: list[Callable[[], Any]] = []
    try:
        for name, module in root.named_modules():
            if is_frozen_kind(module):
                restore.append(own_forward(module))
                module.forward = frozen_forward(module, quick_forward(module), changes.get(name))
                continue
            if in_place and type(module).__name__.endswith("Norm"):
                restore.append(own_forward(module))
                module.forward = of_a_copy(module.forward)
            for store, key, tensor in small_tensors(module):
                restore.append(partial(store.__setitem__, key, tensor))
                clone = tensor.detach() if isinstance(module, nn.Embedding) else tensor.detach().clone()
                store[key] = nn.Parameter(clone, requires_grad=False) if isinstance(tensor, nn.Parameter) else clone
        yield
    finally:
        for undo in reversed(restore):
            undo()


def checkpointed_blocks(root: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: children of its outermost module lists, sequences taken apart."""
    blocks: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                for item in child:
                    blocks.extend(item.children() if isinstance(item, nn.Sequential) else [item])
            elif not is_frozen_kind(child):
                visit(child)

    visit(root)
    return blocks


@contextmanager
def checkpointing(root: nn.Module) -> Iterator[int]:
    """Recompute each block in the backward pass instead of keeping its activations; yields the number of blocks."""
    from torch.utils.checkpoint import checkpoint

    restore = []
    blocks = checkpointed_blocks(root)
    try:
        for block in blocks:
            restore.append(own_forward(block))

            def forward(*args: Any, run: Callable = block.forward, **kwargs: Any) -> Any:
                return checkpoint(run, *args, use_reentrant=False, **kwargs)

            block.forward = forward
        yield len(blocks)
    finally:
        for undo in reversed(restore):
            undo()
