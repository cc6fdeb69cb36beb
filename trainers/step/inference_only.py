"""The features of ComfyUI that speed up sampling and lose gradients, switched off for the time of a training.

Newer cores prefetch blocks and replay them as CUDA graphs without asking whether a gradient is recorded, hand out
weights in buffers that are written over before the backward pass, and call fused kernels that have no gradient. Each is
recognised by what is there, not by a version: an attribute, an option, a function. What is not there is left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.ops
import comfy.quant_ops
import torch
from comfy.cli_args import args as options
from torch import Tensor, nn

from ...models.stored import is_dynamic

# Names of what was switched off, for the report.
GRAPHS = "CUDA graphs"
COMPILER = "ComfyUI's compiler"
PREFETCH = "prefetching of blocks"
BUFFERS = "weights in buffers that are used again"
KERNELS = "fused kernels without a gradient"
CLAMPING = "fp8 layers that change their input"
COMPILED = "torch.compile"
CACHES = "reuse of the caption's keys and values"

# ComfyUI's options by name: they are read in every forward pass, before any wrapper of the model runs.
OPTIONS = {"disable_cuda_graphs": GRAPHS, "disable_comfy_compiler": COMPILER}
# An entry of transformer_options that ComfyUI sets in every forward pass, and an attribute of text encoders.
PREFETCHES = "prefetch_dynamic_vbars"
# Attributes of text encoders.
ATTRIBUTES = (PREFETCHES, "graph_dynamic_vbar_blocks")
# Of comfy_kitchen: norms, modulations and rotations. Others (quantised products) never see a gradient.
FUSED = ("adaln", "apply_rope", "rms_")


@contextmanager
def without_inference_features(*patchers: Any) -> Iterator[list[str]]:
    """Switch all of this off for the networks of these loaded model patchers; everything is restored after it.

    Yields the names of what was switched off. Some of it shows in the first step only, so the list is complete then.
    To be entered before the layers to train are chosen: a compiled module gives its layers other names.
    """
    switched_off: list[str] = []
    roots = [patcher.model for patcher in patchers]
    dynamic = any(getattr(patcher, "is_dynamic", bool)() for patcher in patchers)
    with ExitStack() as stack:
        for option, name in OPTIONS.items():
            if getattr(options, option, True) is False:
                stack.enter_context(changed(options, option, True))
                if dynamic:
                    note(switched_off, name)
        for root in roots:
            stack.enter_context(without_prefetch(root))
            stack.callback(drop_graphs, root)
            stack.enter_context(uncompiled(root, switched_off))
            stack.enter_context(without_cache(root, switched_off))
        if dynamic:
            note(switched_off, PREFETCH)
        stack.enter_context(own_casts(switched_off))
        stack.enter_context(differentiable_kernels(switched_off))
        stack.enter_context(unclamped(switched_off))
        yield switched_off


def note(switched_off: list[str], name: str) -> None:
    """Add a name once."""
    if name not in switched_off:
        switched_off.append(name)


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute while the context lasts."""
    had, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def without_prefetch(root: nn.Module) -> Iterator[None]:
    """No block's weights are fetched ahead, so none is replayed as a CUDA graph either."""

    def switched_off(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs.get("transformer_options")
        if not isinstance(given, dict) or not given.get(PREFETCHES):
            return None
        return args, kwargs | {"transformer_options": given | {PREFETCHES: False}}

    with ExitStack() as stack:
        network = getattr(root, "diffusion_model", None)
        if isinstance(network, nn.Module):
            stack.callback(network.register_forward_pre_hook(switched_off, with_kwargs=True).remove)
        for module in root.modules():
            for name in ATTRIBUTES:
                if getattr(module, name, None) is True:
                    stack.enter_context(changed(module, name, False))
        yield


@contextmanager
def without_cache(root: nn.Module, switched_off: list[str]) -> Iterator[None]:
    """A context in which no forward pass uses what another has kept: the weights have changed since (HiDream O1)."""
    network = getattr(root, "diffusion_model", None)
    clear = getattr(network, "clear_kv_cache", None)
    if clear is None or not isinstance(network, nn.Module):
        yield
        return
    note(switched_off, CACHES)
    handle = network.register_forward_pre_hook(lambda module, args: clear())
    try:
        yield
    finally:
        handle.remove()
        clear()


def drop_graphs(root: nn.Module) -> None:
    """Free what a network keeps of its last forward pass, and with it the adapters: Anima keeps its caption."""
    for module in root.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())


@contextmanager
def uncompiled(root: nn.Module, switched_off: list[str]) -> Iterator[None]:
    """Compiled modules run as they were written, in their place and under their own names."""
    compiled = [
        (parent, name, child)
        for parent in root.modules()
        for name, child in parent.named_children()
        if isinstance(getattr(child, "_orig_mod", None), nn.Module)
    ]
    whole = [module for module in root.modules() if getattr(module, "_compiled_call_impl", None) is not None]
    with ExitStack() as stack:
        for parent, name, child in compiled:
            parent._modules[name] = child._orig_mod
            stack.callback(parent._modules.__setitem__, name, child)
        for module in whole:
            stack.enter_context(changed(module, "_compiled_call_impl", None))
        if compiled or whole:
            note(switched_off, COMPILED)
            if hasattr(torch.compiler, "set_stance"):  # a function within a module may be compiled, too
                stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def own_casts(switched_off: list[str]) -> Iterator[None]:
    """Give autograd a copy of a layer's weight where it may keep it.

    A weight that lies elsewhere is handed out in a buffer that the next layers use as well, or in memory of which
    ComfyUI's dynamic VRAM may take away the contents; PyTorch sees neither. Frozen layers do not keep theirs: no
    gradient is recorded inside of them. Tables of embeddings are large, and their gradient does not need them.
    """
    cast = comfy.ops.cast_bias_weight

    @functools.wraps(cast)
    def copying(module: Any, *args: Any, **kwargs: Any) -> Any:
        weight, bias, *more = cast(module, *args, **kwargs)
        if torch.is_grad_enabled() and not isinstance(module, nn.Embedding) and is_streamed(module, weight):
            note(switched_off, BUFFERS)
            weight, bias = (None if value is None else value.clone() for value in (weight, bias))
        return weight, bias, *more

    with changed(comfy.ops, "cast_bias_weight", copying):
        yield


def is_streamed(module: Any, weight: Tensor) -> bool:
    """Whether a weight that ComfyUI has handed out comes from elsewhere than the module itself."""
    return is_dynamic(module) or module.weight.device != weight.device


@contextmanager
def differentiable_kernels(switched_off: list[str]) -> Iterator[None]:
    """Run comfy_kitchen's fused operations as the PyTorch code that it has of each, where a gradient is recorded."""
    kitchen = getattr(comfy.quant_ops, "ck", None)
    plain = getattr(getattr(kitchen, "backends", None), "eager", None)

    def either(fused: Callable[..., Any], unfused: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fused)
        def run(*args: Any, **kwargs: Any) -> Any:
            values = (*args, *kwargs.values())
            if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values):
                note(switched_off, KERNELS)
                return unfused(*args, **kwargs)
            return fused(*args, **kwargs)

        return run

    with ExitStack() as stack:
        for name in dir(kitchen):
            fused, unfused = getattr(kitchen, name), getattr(plain, name, None)
            if name.startswith(FUSED) and not name.endswith("_") and callable(unfused):  # with _: in place
                stack.enter_context(changed(kitchen, name, either(fused, unfused)))
        yield


@contextmanager
def unclamped(switched_off: list[str]) -> Iterator[None]:
    """Fast products in fp8 clamp a copy of their input: the input itself may have been kept for the backward pass."""
    product = getattr(comfy.ops, "fp8_linear", None)
    if product is None:
        yield
        return

    def of_a_copy(module: Any, input: Tensor) -> Any:
        note(switched_off, CLAMPING)
        return product(module, input.clone())

    with changed(comfy.ops, "fp8_linear", of_a_copy):
        yield
