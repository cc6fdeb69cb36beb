"""The tensors that autograd keeps of a forward pass, where the network writes into its own tensors, and gradient
checkpointing.

ComfyUI is written for inference: it adds to tensors in place that an earlier operation has kept for its gradient.
PyTorch finds that out in the backward pass, and refuses. So a `Region` (a network, or one block of it) remembers which
of its saved tensors are changed later, by their place in the order of saving, and keeps copies of those alone. What is
changed shows in the first step, which is then taken again; later steps know it. A region that nothing is changed in is
never looked at and costs nothing.

PyTorch's own checkpointing hands out tensors that a block has changed after saving them, without a word (its hooks have
no version check). `checkpointed` looks at the versions of what it hands out, and of the block's inputs.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_unflatten

from .host import Host, HostTensor, frees_memory, version_of


class Region:
    """A part of a network: which of the tensors that it saves are written into afterwards.

    copies: their places in the order of saving. inputs: the places of those of its own inputs that it writes into,
    or others do before the backward pass. changed: whether a tensor was written into since this was last set to False;
    gradients are wrong then.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.copies: set[int] = set()
        self.inputs: set[int] = set()
        self.changed = False
        self.watched = False  # whether `watching` has an effect
        self.host: Host | None = None  # where a block's inputs are kept, if not where they are
        # Around a block when it is computed again: PyTorch's modes are off in a backward pass.
        self.around: Callable[[], Any] = contextlib.nullcontext

    def keep(self, place: int, value: Tensor) -> tuple[Tensor, int]:
        """A saved tensor with its version; a copy of one that is written into later."""
        kept = value.detach()
        if place in self.copies:
            kept = kept.clone()
        return kept, version_of(kept)

    def checked(self, place: int, kept: Tensor, version: int) -> Tensor:
        """The kept tensor. Written into in the meantime, it is wrong now and copied from the next pass on."""
        if version_of(kept) != version:
            self.copies.add(place)
            self.changed = True
        return kept

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A context for one forward pass: keeps copies where they are needed, and learns where that is."""
        if not self.watched:
            yield
            return
        count = 0

        def pack(value: Tensor) -> tuple[int, Tensor, int]:
            nonlocal count
            count += 1
            return count - 1, *self.keep(count - 1, value)

        with saved_tensors_hooks(pack, lambda packed: self.checked(*packed)):
            yield


class Changed(RuntimeError):
    """A block cannot be computed again: its region knows now what to copy, and the pass has to be taken again."""


class _Complete(Exception):
    """All tensors that the backward pass needs are there again."""


def changes_of(leaf: Any) -> int:
    """How often an input of a block has been written into."""
    if isinstance(leaf, HostTensor):
        return leaf.changes()
    return version_of(leaf) if isinstance(leaf, Tensor) else 0


class _Recomputed:
    """The tensors that one call of a block would have saved, made again when the first of them is asked for."""

    def __init__(self, region: Region, run: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.region, self.run = region, run
        leaves, self.structure = tree_flatten((args, kwargs))
        self.copied = frozenset(region.inputs)
        # Copies for the inputs have no history, but have to be saved by what saved the inputs.
        self.requires_grad = [isinstance(value, Tensor) and value.requires_grad for value in leaves]
        self.autocast = _autocast(leaves)
        self.given: list[tuple[int, Tensor, int]] = []  # what is now on the CPU, until the block has run
        self.written: set[int] = set()  # places of what the block writes into of that
        self.before: Callable[[], _Recomputed | None] = lambda: None  # whose inputs are wanted after these
        self.leaves = [self.kept(place, value) for place, value in enumerate(leaves)]
        self.versions = [changes_of(leaf) for leaf in self.leaves]
        if self.given and region.host is not None:
            self.before, region.host.last = region.host.last, weakref.ref(self)
        self.count = 0
        self.values: dict[int, tuple[Tensor, int]] = {}

    def kept(self, place: int, value: Any) -> Any:
        """An input as it is kept for the second time."""
        if not isinstance(value, Tensor):
            return value
        host = self.region.host
        away = host is not None and frees_memory(value)
        copied = place in self.copied
        if copied:
            value = value.detach().clone()
        if not away or host is None:
            return value
        self.given.append((place, value, version_of(value)))
        return HostTensor(host, value) if copied else host.keep(value)

    def ran(self) -> None:
        """The block has run for the first time."""
        self.written = {place for place, value, version in self.given if version_of(value) != version}
        self.check_inputs()  # most blocks that write into their inputs show it here, all in one pass
        if self.given and self.region.host is not None:
            self.region.host.copies.wait_away()
        self.given = []

    def pack(self, value: Tensor) -> int:
        """The place of a tensor, which is saved instead of it."""
        self.count += 1
        return self.count - 1

    def unpack(self, place: int) -> Tensor:
        """The tensor of that place."""
        if place not in self.values:
            self.compute()
        kept, version = self.values.pop(place)  # nobody asks twice in one backward pass
        return self.region.checked(place, kept, version)

    def check_inputs(self) -> bool:
        """Whether the inputs are as they were; if not, they are copied from the next pass on."""
        versions = zip(self.leaves, self.versions, strict=True)
        changed = {place for place, (leaf, version) in enumerate(versions) if changes_of(leaf) != version}
        if changed := changed | self.written:
            self.region.inputs |= changed
            self.region.changed = True
        return not changed

    def start(self) -> None:
        """Begin to fetch the inputs from the CPU."""
        for leaf in self.leaves:
            if isinstance(leaf, HostTensor):
                leaf.start()

    def inputs(self) -> list[Any]:
        """The inputs that the block is called with again; of those that are written into, a copy for each time."""
        self.start()
        if (before := self.before()) is not None:
            before.start()
        return [self.input(place, leaf) for place, leaf in enumerate(self.leaves)]

    def input(self, place: int, leaf: Any) -> Any:
        """The input of the block at a place: fetched if it is on the CPU, and copied where the block writes into it."""
        copied, requires_grad = place in self.copied, self.requires_grad[place]
        if isinstance(leaf, HostTensor):
            value = leaf.fetch().requires_grad_(requires_grad)
            return value.clone() if copied else value
        if not copied or not isinstance(leaf, Tensor):
            return leaf
        # clone() twice: a leaf that requires a gradient cannot be written into.
        return leaf.clone().requires_grad_(requires_grad).clone()

    def compute(self) -> None:
        """Run the block again."""
        if not self.check_inputs():
            raise Changed(f"the inputs of {self.region.name} have been written into")
        values: dict[int, tuple[Tensor, int]] = {}

        def keep(value: Tensor) -> None:
            place = len(values)
            values[place] = self.region.keep(place, value)
            if len(values) == self.count:
                raise _Complete

        with torch.enable_grad(), self.autocast(), self.region.around():  # neither is on in a backward pass
            args, kwargs = tree_unflatten(self.inputs(), self.structure)
            with saved_tensors_hooks(keep, _never), contextlib.suppress(_Complete):
                self.run(*args, **kwargs)
        if len(values) != self.count:
            raise RuntimeError(
                f"{self.region.name} saves {self.count} tensors in the forward pass and {len(values)} when it is "
                "computed again for gradient checkpointing: switch gradient checkpointing off."
            )
        self.values = values


def _never(packed: Any) -> Tensor:
    """No backward pass goes through what is computed again."""
    raise AssertionError("a block that is computed again has no backward pass of its own")


def _autocast(values: list[Any]) -> Callable[[], Any]:
    """A context manager that sets the autocast of this moment again: the backward pass has none, and may run in another
    thread.
    """
    kinds = {value.device.type for value in values if isinstance(value, Tensor)}
    active = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    if not active:
        return contextlib.nullcontext
    return lambda: torch.autocast(active[0], torch.get_autocast_dtype(active[0]))


def checkpointed(region: Region, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """run(*args, **kwargs), keeping nothing for the backward pass but the inputs (arXiv 1604.06174).

    What else is needed is computed again there. Nothing random may happen in `run`.
    """
    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    again = _Recomputed(region, run, args, kwargs)
    with saved_tensors_hooks(again.pack, again.unpack):
        result = run(*args, **kwargs)
    again.ran()
    return result
