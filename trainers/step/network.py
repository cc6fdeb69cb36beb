"""A whole network made ready for training and put back: frozen layers, adapters on them, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

from ...models.layers import is_linear_or_convolution
from ...models.stored import IN_A_PASS
from ..settings.checkpointing import EVERY, OFF, SECOND
from .adapted import ChangeNow, adapted_forward, place_change, table_forward
from .at_hand import AtHand
from .frozen import frozen_forward, quick_forward
from .host import Host
from .saved import Region, checkpointed


def own_attribute(module: nn.Module, name: str) -> Callable[[], Any]:
    """Remember whether the module has an attribute of its own (not of its class), and return what restores it."""
    if name in module.__dict__:
        return partial(setattr, module, name, module.__dict__[name])
    return partial(module.__dict__.pop, name, None)


def own_forward(module: nn.Module) -> Callable[[], Any]:
    """Remember the module's forward, and return what restores it."""
    return own_attribute(module, "forward")


def small_tensors(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Tensors of the module itself that autograd refuses or would give a gradient: (dictionary, name, tensor)."""
    return [
        (store, name, tensor)
        for store in (module._parameters, module._buffers)
        for name, tensor in store.items()
        if tensor is not None and (tensor.is_inference() or tensor.requires_grad)
    ]


class OwnTensors:
    """A small module's weight and bias on the device, wherever ComfyUI keeps them: `kept`.

    While `hide` was called last, ComfyUI takes the module's own tensors, and does not fetch them from where it has put
    them; `undo` ends that.
    """

    def __init__(self, module: nn.Module, device: torch.device | None) -> None:
        self.module = module
        self.hidden: dict[str, Any] = {}
        self.kept = {key: value for key, value in module._parameters.items() if value is not None}
        self.streams = hasattr(module, "comfy_cast_weights")
        device = device or module.weight.device
        if self.streams and (module.weight.device != device or any(getattr(module, name, ()) for name in IN_A_PASS)):
            like = torch.empty(0, dtype=module.weight.dtype, device=device)
            with torch.no_grad():
                weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
                tensors = {"weight": weight, "bias": bias}
                self.kept = {key: value.clone() for key, value in tensors.items() if value is not None}
                comfy.ops.uncast_bias_weight(module, weight, bias, stream)
        self.hide()

    def hide(self) -> None:
        """Hide the attributes by which ComfyUI moves and patches the module; once a step, as previews set them."""
        if self.streams:
            for name in IN_A_PASS:
                if name in self.module.__dict__:
                    self.hidden[name] = self.module.__dict__.pop(name)

    def undo(self) -> None:
        """Put back what ComfyUI had."""
        self.module.__dict__.update(self.hidden)


_BEFORE = "prev_comfy_cast_weights"  # where ComfyUI remembers it of a layer whose weights it has put away
LARGE = 2**18  # values of a table of embeddings that is not made anew in each step


@dataclass
class FrozenNetwork:
    """The calls that a frozen network needs: `placing` in each step, before the forward pass, for changes of what is
    small; `releasing` before ComfyUI may move the network.
    """

    placing: list[Callable[[], None]] = field(default_factory=list)
    releasing: list[Callable[[], None]] = field(default_factory=list)


@contextmanager
def frozen(
    root: nn.Module,
    changes: dict[str, ChangeNow],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Iterator[FrozenNetwork]:
    """Run `root` frozen inside the context, with adapters on the named layers; everything is restored after it.

    Linear and convolution layers run through FrozenLayer. What other modules hold themselves (norms, position tables)
    is small: it is cloned for the time of the training, because those tensors do get saved. Tables of token embeddings
    are large and never saved. Both may have a change as well. dtype, device: in which and where the network computes.
    """
    restore: list[Callable[[], Any]] = []
    calls = FrozenNetwork()
    try:
        for name, module in root.named_modules():
            change = changes.get(name)
            if is_linear_or_convolution(module):
                restore.append(own_forward(module))
                run, at_hand = quick_forward(module), AtHand(module)
                restore.append(at_hand.release)
                calls.releasing.append(at_hand.release)
                if change is None:
                    module.forward = frozen_forward(module, run, at_hand)
                else:
                    module.forward = adapted_forward(module, run, change, at_hand)
                continue
            if change is not None and isinstance(module, nn.Embedding) and module.weight.numel() > LARGE:
                restore.append(own_forward(module))
                module.forward = table_forward(module.forward, change)
                change = None
            for store, key, tensor in small_tensors(module):
                restore.append(partial(store.__setitem__, key, tensor))
                clone = tensor.detach() if isinstance(module, nn.Embedding) else tensor.detach().clone()
                store[key] = nn.Parameter(clone, requires_grad=False) if isinstance(tensor, nn.Parameter) else clone
            if change is not None:
                before = dict(module._parameters)
                restore.append(partial(module._parameters.update, before))
                own_tensors = OwnTensors(module, device)
                restore.append(own_tensors.undo)
                calls.placing += [own_tensors.hide, partial(place_change, module, own_tensors.kept, change, dtype)]
        yield calls
    finally:
        for undo in reversed(restore):
            undo()


def checkpointed_blocks(root: nn.Module, mode: str = EVERY) -> dict[str, nn.Module]:
    """The blocks of a network that a mode computes again, by path: children of its outermost module lists, sequences
    taken apart; every second of each list, from the first.
    """
    blocks: dict[str, nn.Module] = {}
    step = 2 if mode == SECOND else 1

    def visit(path: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            where = f"{path}{name}"
            if isinstance(child, nn.ModuleList):
                for place, item in list(child.named_children())[::step]:
                    if isinstance(item, nn.Sequential):
                        blocks.update({f"{where}.{place}.{number}": part for number, part in item.named_children()})
                    else:
                        blocks[f"{where}.{place}"] = item
            elif not is_linear_or_convolution(child):
                visit(f"{where}.", child)

    if mode != OFF:
        visit("", root)
    return blocks


@contextmanager
def checkpointing(
    root: nn.Module, regions: dict[str, Region], mode: str = EVERY, host: Host | None = None
) -> Iterator[int]:
    """Recompute blocks in the backward pass instead of keeping their activations; yields the number of blocks.

    `regions` holds the region of each block, by its path; what is missing there is added. host: where the blocks'
    inputs are kept until then, if not on their device.
    """
    restore: list[Callable[[], Any]] = []
    blocks = checkpointed_blocks(root, mode)
    try:
        for name, block in blocks.items():
            region = regions.setdefault(name, Region(name))
            restore += [own_forward(block), partial(setattr, region, "host", None)]
            region.host = host
            block.forward = partial(checkpointed, region, block.forward)
        yield len(blocks)
    finally:
        for undo in reversed(restore):
            undo()


def own_cast(module: nn.Module) -> Callable[[], Any]:
    """Remember whether a layer casts its weights, and return what restores it.

    Where ComfyUI has moved the layer in between (for a preview), what it will restore itself is put right instead:
    layers that it has put away cast, and remember what they did before.
    """
    undo, value = own_attribute(module, "comfy_cast_weights"), module.comfy_cast_weights
    before = module.__dict__.get(_BEFORE)

    def restore() -> None:
        away = _BEFORE in module.__dict__
        if away and before is None:
            setattr(module, _BEFORE, value)
        elif not away and before is not None:
            module.comfy_cast_weights = before
        else:
            undo()

    return restore


def cast_weights(network: nn.Module) -> None:
    """Let every layer cast its weights to what it gets."""
    for module in network.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True


@contextmanager
def computing_in(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Let ComfyUI's model (a BaseModel) compute in `dtype`, whatever it is stored in: every layer casts its weights.

    None: as ComfyUI has chosen.
    """
    if dtype is None:
        yield
        return
    restore: list[Callable[[], Any]] = []
    before = model.manual_cast_dtype
    try:
        model.manual_cast_dtype = dtype
        for module in model.diffusion_model.modules():
            if hasattr(module, "comfy_cast_weights"):
                restore.append(own_cast(module))
            for name in ("dtype", "embedder_dtype"):  # what some networks turn their inputs into
                if isinstance(module.__dict__.get(name), torch.dtype):
                    restore.append(own_attribute(module, name))
                    setattr(module, name, dtype)
        cast_weights(model.diffusion_model)
        yield
    finally:
        model.manual_cast_dtype = before
        for undo in reversed(restore):
            undo()
