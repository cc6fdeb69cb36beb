"""The bytes of activations in each mode of gradient checkpointing, from one forward pass that keeps nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ...models.layers import is_linear_or_convolution
from ..settings.checkpointing import OFF, OFFLOADED, SECOND
from .host import version_of
from .network import checkpointed_blocks

# The most that a step has at one time over the bytes that are counted: 0.7 to 1.0 (UNets, SD3, Flux.1).
_KEPT = 1.0


@dataclass
class BlockBytes:
    """A block in a forward pass of one example: the bytes of its layers' outputs (`within`) and of what it alone got
    (`own`), and the operations that computing it again takes. second: whether it is one of every second.
    """

    second: bool
    within: int = 0
    own: int = 0
    operations: int = 0


@dataclass
class ActivationBytes:
    """What a forward pass of one example showed, from which the needs of all modes of checkpointing follow.

    outside: bytes of the outputs of all layers outside of blocks. shared: of what several blocks get. operations:
    multiplications and additions of layers and attention in a step without checkpointing, but for the adapters'.
    """

    blocks: list[BlockBytes]
    outside: int = 0
    shared: int = 0
    operations: int = 0

    def again(self, mode: str) -> list[BlockBytes]:
        """The blocks that are computed again."""
        return [] if mode == OFF else [block for block in self.blocks if mode != SECOND or block.second]

    def on_device(self, mode: str) -> int:
        """The most bytes on the device that are there at one time: when a block is computed again, all before it are as
        the forward pass left them; at the end of that nothing is computed again.
        """
        again = {id(block) for block in self.again(mode)}
        most, whole, between, before = 0.0, 0, 0, 0
        for block in self.blocks:
            if id(block) in again:
                if mode == OFFLOADED:
                    between, before = before + block.own, block.own  # of this one, and of the next to be fetched
                else:
                    between += block.own
                most = max(most, _KEPT * (whole + block.within) + between)
            else:
                whole += block.within
        most = max(most, _KEPT * whole + between)
        return int(_KEPT * self.outside + most) + (self.shared if again else 0)

    def on_host(self, mode: str) -> int:
        """Bytes that are kept on the CPU."""
        return sum(block.own for block in self.again(mode)) if mode == OFFLOADED else 0

    def more(self, mode: str) -> float:
        """The operations that a mode adds to those of a step without checkpointing, as a share."""
        return sum(block.operations for block in self.again(mode)) / max(1, self.operations)


class _Attention(TorchFunctionMode):
    """Calls `seen` with the inputs and the output of PyTorch's attention."""

    def __init__(self, seen: Callable[[tuple[Tensor, Tensor, Tensor], Tensor], None]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.scaled_dot_product_attention:
            query, key, value = [*args, *(kwargs or {}).values()][:3]
            self.seen((query, key, value), result)
        return result


class _Pass:
    """What is noted in a forward pass for `measure`."""

    def __init__(self, root: nn.Module, adapted: Collection[nn.Module], begun: bool) -> None:
        self.adapted = adapted
        blocks, of_second = checkpointed_blocks(root), checkpointed_blocks(root, SECOND)
        self.measured = ActivationBytes([BlockBytes(name in of_second) for name in blocks])
        self.block: BlockBytes | None = None  # that is computed now
        self.last = 0  # operations of the last layer, if nothing is kept from it on
        self.begun = begun  # whether what is computed has a gradient
        self.idle: list[BlockBytes] = []  # which have none, and keep nothing
        self.counted: dict[int, Any] = {}  # storages that are counted and still there, by their addresses
        # Tensors that blocks got, as they were: the only block that did, if one did.
        self.given: dict[tuple[int, int], tuple[Any, BlockBytes | None]] = {}
        self.handles = [
            module.register_forward_hook(self.layer) for module in root.modules() if not list(module.children())
        ]
        for block, entry in zip(blocks.values(), self.measured.blocks, strict=True):
            self.handles.append(block.register_forward_pre_hook(partial(self.enter, entry), with_kwargs=True))
            self.handles.append(block.register_forward_hook(self.leave))

    def bytes(self, value: object) -> None:
        """Count tensors, each storage once."""
        for tensor in tree_leaves(value):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if self.counted.get(storage._cdata, lambda: None)() is storage:
                continue
            self.counted[storage._cdata] = weakref.ref(storage)
            if self.block is None:
                self.measured.outside += size_of(tensor)
            else:
                self.block.within += size_of(tensor)

    def operations(self, forward: int, backward: int) -> None:
        """Count multiplications and additions of a forward pass, and of the gradient of its input."""
        self.measured.operations += forward + backward * self.begun
        if self.block is not None:
            self.block.operations += forward

    def attention(self, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Attention keeps all of it. Its backward pass has five products for the forward pass' two: the weights again,
        their gradient, and those of the three inputs.
        """
        query, key, value = inputs
        number = 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        self.operations(number, number * 5 // 2)
        self.last = 0
        self.bytes((inputs, output))

    def layer(self, module: nn.Module, args: object, output: object) -> None:
        """A module without children has been called."""
        if module in self.adapted:
            self.begun = True
            self.bytes(args)
        self.bytes(output)
        if is_linear_or_convolution(module) and isinstance(output, Tensor):
            number = 2 * output.numel() * module.weight.shape[1:].numel()  # the frozen weight has no gradient
            self.operations(number, number)
            # What comes out of a linear layer goes into a product with a gate, which keeps the gate.
            self.last = 0 if module in self.adapted or module.weight.ndim == 2 else number

    def enter(self, entry: BlockBytes, module: nn.Module, args: object, kwargs: object) -> None:
        """A block is called."""
        self.block = entry
        for value in tree_leaves((args, kwargs)):
            if not isinstance(value, Tensor):
                continue
            key = id(value), version_of(value)
            reference, only = self.given.get(key, (lambda: None, None))
            if reference() is not value:
                self.given[key] = weakref.ref(value), entry
                entry.own += size_of(value)
            elif only is not None:
                self.given[key] = reference, None
                only.own -= size_of(value)
                self.measured.shared += size_of(value)

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        """A block has been called. What comes after the last tensor that it keeps is not computed again."""
        assert self.block is not None
        self.block.operations -= self.last
        if not self.begun:
            self.idle.append(self.block)
        self.block, self.last = None, 0


@torch.no_grad()
def measure(
    root: nn.Module, run: Callable[[], Tensor], adapted: Collection[nn.Module], begun: bool = False
) -> tuple[Tensor, ActivationBytes]:
    """The result of a forward pass `run` of one example, and what it showed.

    adapted: layers that keep their input. begun: whether what comes before the first of them has a gradient, too.
    """
    noted = _Pass(root, adapted, begun)
    try:
        with _Attention(noted.attention):
            result = run()
    finally:
        for handle in noted.handles:
            handle.remove()
    for block in noted.idle:
        block.within = block.own = block.operations = 0
    return result, noted.measured


def size_of(output: object) -> int:
    """Bytes of the tensors in a module's output."""
    if isinstance(output, Tensor):
        return output.numel() * output.element_size()
    return sum(size_of(item) for item in output) if isinstance(output, (list, tuple)) else 0
