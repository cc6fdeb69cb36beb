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
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ..patches.activations import bias_of

CONVOLUTIONS = {
    nn.Conv1d: torch.nn.grad.conv1d_input,
    nn.Conv2d: torch.nn.grad.conv2d_input,
    nn.Conv3d: torch.nn.grad.conv3d_input,
}
# What an adapter adds: (input, output without bias) -> addition.
Addition = Callable[[Tensor, Tensor], Tensor]


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer; ComfyUI's layers of quantised weights are no torch.nn.Linear."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def is_frozen_kind(module: nn.Module) -> bool:
    """Whether the module is a linear or convolution layer, which this file can run frozen."""
    known = is_linear(module) or isinstance(module, tuple(CONVOLUTIONS))
    return known and getattr(module, "weight", None) is not None


@contextmanager
def weight_of(module: nn.Module, like: Tensor) -> Iterator[Tensor]:
    """The module's weight on the device and in the dtype of `like`, wherever ComfyUI keeps it; dequantised."""
    stored: Any = module.weight
    if hasattr(module, "get_weight") and type(stored) not in (Tensor, nn.Parameter):  # GGUF loaders, with patches
        yield module.get_weight(stored.to(like.device), like.dtype).to(like.dtype)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        # Products with quantised tensors would round the gradient as well, or know only x W^T.
        yield weight.dequantize().to(like.dtype) if isinstance(weight, QuantizedTensor) else weight
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)


def input_gradient(module: nn.Module, grad: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the module's input [shape] from that of its output."""
    with weight_of(module, grad) as weight:
        if is_linear(module):
            return (grad @ weight).reshape(shape)
        conv = next(function for kind, function in CONVOLUTIONS.items() if isinstance(module, kind))
        return conv(shape, weight, grad, module.stride, module.padding, module.dilation, module.groups)


class FrozenLayer(torch.autograd.Function):
    """y = layer(x) with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.module, ctx.shape, ctx.dtype = module, x.shape, x.dtype
        return run(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return input_gradient(ctx.module, grad, ctx.shape).to(ctx.dtype), None, None


def frozen_forward(
    module: nn.Module, run: Callable[[Tensor], Tensor], addition: Addition | None
) -> Callable[[Tensor], Tensor]:
    """The forward of a frozen layer, with an adapter's addition on its activations if there is one."""

    def forward(x: Tensor) -> Tensor:
        y = FrozenLayer.apply(x, module, run)
        if addition is None:
            return y
        bias = bias_of(module, y, y.ndim - 1 if is_linear(module) else 1)
        return y + addition(x, y if bias is None else y - bias)

    return forward


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
def frozen(root: nn.Module, additions: dict[str, Addition], in_place: bool = False) -> Iterator[None]:
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
                module.forward = frozen_forward(module, module.forward, additions.get(name))
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
