"""What blocks get, kept on the CPU until the backward pass: gradient checkpointing with offloaded activations.

On CUDA a stream of its own copies. Away while the block computes, and the block's end waits for it, so that nobody can
write into a tensor or use its memory while it is read. Back while the block behind it is computed again.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


def version_of(value: Tensor) -> int:
    """How often a tensor has been written into. Inference tensors do not count; nobody may write into them here."""
    return 0 if value.is_inference() else int(value._version)


class Copies(Protocol):
    """How tensors get to the CPU and back."""

    def away(self, value: Tensor) -> Tensor:
        """Begin a copy of a tensor on the CPU."""

    def wait_away(self) -> None:
        """What is computed from now on may write into what was copied."""

    def back(self, kept: Tensor, device: torch.device) -> tuple[Tensor, Any]:
        """Begin a copy on the device; the copy, and what `wait_back` takes."""

    def wait_back(self, ready: Any) -> None:
        """What is computed from now on may read the copy."""


class PlainCopies:
    """Copies that are complete when the call returns."""

    def away(self, value: Tensor) -> Tensor:
        return value.detach().to("cpu", copy=True)

    def wait_away(self) -> None:
        pass

    def back(self, kept: Tensor, device: torch.device) -> tuple[Tensor, Any]:
        return kept.to(device, copy=True), None

    def wait_back(self, ready: Any) -> None:
        pass


class StreamCopies:
    """Copies in a stream of their own, from and to pinned memory. `cuda` is torch.cuda, or another that acts as it."""

    def __init__(self, cuda: Any, device: torch.device) -> None:
        self.cuda, self.device = cuda, device
        self.stream = cuda.Stream(device=device)
        self.pinned = True

    def beside(self, value: Tensor) -> Tensor:
        """Memory of the CPU for a tensor's values."""
        if self.pinned:
            try:
                return torch.empty_like(value, device="cpu", pin_memory=True)
            except RuntimeError:  # the system's limit: the copies then wait
                self.pinned = False
        return torch.empty_like(value, device="cpu")

    def away(self, value: Tensor) -> Tensor:
        kept = self.beside(value.detach())
        self.stream.wait_stream(self.cuda.current_stream(self.device))
        with self.cuda.stream(self.stream):
            kept.copy_(value.detach(), non_blocking=True)
        return kept

    def wait_away(self) -> None:
        self.cuda.current_stream(self.device).wait_stream(self.stream)

    def back(self, kept: Tensor, device: torch.device) -> tuple[Tensor, Any]:
        value = torch.empty_like(kept, device=device)
        # Its memory may be that of a tensor which work that is still to be done reads.
        self.stream.wait_stream(self.cuda.current_stream(self.device))
        with self.cuda.stream(self.stream):
            value.copy_(kept, non_blocking=True)
            ready = self.stream.record_event()
        value.record_stream(self.stream)  # a pass that breaks off lets it go before it has been copied
        return value, ready

    def wait_back(self, ready: Any) -> None:
        self.cuda.current_stream(self.device).wait_event(ready)


class HostTensor:
    """A tensor that a block got, on the CPU; or as it was where a second block got it, too."""

    def __init__(self, host: Host, value: Tensor) -> None:
        self.copies, self.device = host.copies, value.device
        self.kept: Tensor | None = self.copies.away(value)
        self.version = version_of(value)
        self.shared: Tensor | None = None
        self.coming: tuple[Tensor, Any] | None = None

    def share(self, value: Tensor) -> None:
        """Stay on the device: a copy for each block would cost time and free nothing."""
        self.shared, self.kept = value, None

    def changes(self) -> int:
        """How often it was written into since. The copy is what it was."""
        return 0 if self.shared is None else version_of(self.shared) - self.version

    def start(self) -> None:
        """Begin to copy it back."""
        if self.kept is not None and self.coming is None:
            self.coming = self.copies.back(self.kept, self.device)

    def fetch(self) -> Tensor:
        """The tensor on its device, without history."""
        if self.shared is not None:
            return self.shared.detach()
        self.start()
        assert self.coming is not None
        (value, ready), self.coming = self.coming, None
        self.copies.wait_back(ready)
        return value


class Host:
    """The CPU as the place for what the blocks of a network get."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        # What blocks got and is still there: HostTensors by tensor, both as weak references.
        self.given: Any = WeakIdKeyDictionary()
        self.last: Any = lambda: None  # the last block that keeps something here, as a weak reference

    def keep(self, value: Tensor) -> HostTensor:
        """A tensor that a block got, away from its device."""
        before = self.given.get(value, lambda: None)()
        if before is not None and before.version == version_of(value):
            before.share(value)
            return before
        kept = HostTensor(self, value)
        self.given[value] = weakref.ref(kept)
        return kept


def frees_memory(value: Any) -> bool:
    """Whether a block's input is gone from its device once it is copied: it was computed, and has its memory alone."""
    return (
        isinstance(value, Tensor)
        and value.grad_fn is not None
        and value.untyped_storage().nbytes() == value.numel() * value.element_size()
    )


def host_of(device: torch.device) -> Host:
    """The CPU for what is computed on a device."""
    if device.type == "cuda":
        return Host(StreamCopies(torch.cuda, device))
    return Host(PlainCopies())
