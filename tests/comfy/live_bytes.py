"""The bytes of all tensors that are there, counted at every operation of PyTorch."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are made while it is on, each until it is freed; a storage of several tensors once.

    peak: the most at one time. elsewhere: of those that `away` was called with, which are not counted as live.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.elsewhere = self.peak_elsewhere = 0
        self.sizes: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self.add(leaf)
        return result

    def add(self, value: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self.sizes and self.sizes[key][0]() is not None:
            return
        size = storage.nbytes()

        def freed(reference: Any) -> None:
            if self.sizes.get(key, (None,))[0] is reference:
                del self.sizes[key]
                self.live -= size

        self.sizes[key] = weakref.ref(storage, freed), size
        self.live += size
        self.peak = max(self.peak, self.live)

    def away(self, value: Tensor) -> Tensor:
        """Count a tensor's storage as being elsewhere."""
        storage = value.untyped_storage()
        _, size = self.sizes.pop(storage._cdata, (None, 0))  # nothing while it is off
        self.live -= size
        self.elsewhere += size
        self.peak_elsewhere = max(self.peak_elsewhere, self.elsewhere)

        def freed() -> None:
            self.elsewhere -= size

        weakref.finalize(storage, freed)
        return value


def peak_of(run: Any) -> LiveBytes:
    """The bytes of what a call makes."""
    with LiveBytes() as counted:
        run()
    return counted


def self_check() -> None:
    """Raise AssertionError where the count is wrong."""
    with LiveBytes() as counted:
        value = torch.ones(1000)
        view = value.view(10, 100)
        assert counted.live == 4000
        other = view + 1
        assert counted.live == 8000
        del value, other
        assert counted.live == 4000
        del view
        assert (counted.live, counted.peak) == (0, 8000)
