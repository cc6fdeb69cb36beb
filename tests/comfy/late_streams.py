"""A torch.cuda whose side streams copy as late as the waits allow, on a CPU.

What runs in the main stream is computed at once. A copy in another stream is only noted, and made when the main stream
waits for it; what has been freed by then gives numbers that are none. So a wait that is missing shows in the values.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Stream:
    """A stream: copies to be made. `log` has what was noted and what was waited for."""

    def __init__(self, log: list[str], device: Any = None) -> None:
        self.log = log
        self.copies: list[tuple[Tensor, Tensor | None, Any, tuple]] = []
        self.away: list[Any] = []  # storages that were copied to
        self.made = 0

    def note(self, target: Tensor, source: Tensor) -> None:
        """A copy to be made. Back from where one went, the memory outlives it, as PyTorch's pinned memory does."""
        storage, layout = source.untyped_storage(), (source.storage_offset(), source.size(), source.stride())
        is_back = any(reference() is storage for reference in self.away)
        if not is_back:
            self.away.append(weakref.ref(target.untyped_storage()))
        self.log.append(f"{'back' if is_back else 'away'} {len(self.copies)}")
        self.copies.append((target, source if is_back else None, weakref.ref(storage), layout))
        target.fill_(torch.nan)

    def make(self, end: int) -> None:
        """Make the copies up to one."""
        for target, kept, reference, layout in self.copies[self.made : end]:
            storage = reference()
            if kept is None and storage is not None:
                kept = torch.empty(0, dtype=target.dtype).set_(storage, *layout)
            if kept is not None:
                target.copy_(kept)
        self.made = max(self.made, end)

    def wait_stream(self, other: Stream) -> None:
        """All that was noted in another stream has been made."""
        if other.copies:
            with torch.no_grad():
                other.make(len(other.copies))

    def record_event(self) -> tuple[Stream, int]:
        """The place up to which copies have been noted."""
        return self, len(self.copies)

    def wait_event(self, event: tuple[Stream, int]) -> None:
        """The copies up to an event have been made."""
        self.log.append(f"wait {event[1] - 1}")
        with torch.no_grad():
            event[0].make(event[1])


class _Noted(TorchDispatchMode):
    """Copies go to a stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not torch.ops.aten.copy_.default:
            return func(*args, **(kwargs or {}))
        self.stream.note(args[0], args[1])
        return args[0]


class LateCuda:
    """What StreamCopies needs of torch.cuda."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.main = Stream(self.log)

    def Stream(self, device: Any = None) -> Stream:  # noqa: N802
        """A new stream."""
        return Stream(self.log)

    def current_stream(self, device: Any = None) -> Stream:
        """The main stream."""
        return self.main

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """Copies go to that stream."""
        with _Noted(stream):
            yield
