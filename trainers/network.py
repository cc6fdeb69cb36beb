"""A whole network made ready for training and put back: frozen layers, adapters on them, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from .adapted import Change, adapted_forward, small_forward
from .frozen import frozen_forward, is_frozen_kind, quick_forward


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
    are large and never saved. Both may have a change as well. `in_place`: the network adds to a norm's input in place
    (ComfyUI's text encoders do), so norms keep a copy of it.
    """
    restore: list[Callable[[], Any]] = []
    try:
        for name, module in root.named_modules():
            change = changes.get(name)
            if is_frozen_kind(module):
                restore.append(own_forward(module))
                run = quick_forward(module)
                module.forward = frozen_forward(module, run) if change is None else adapted_forward(module, run, change)
                continue
            if in_place and type(module).__name__.endswith("Norm"):
                restore.append(own_forward(module))
                module.forward = of_a_copy(module.forward)
            if change is not None:
                restore.append(own_forward(module))
                module.forward = small_forward(module, module.forward, change)
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
