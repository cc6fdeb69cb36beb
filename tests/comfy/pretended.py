"""A device that is not there, such as Apple's MPS or an Intel GPU: it refuses what these lack.

A tensor on it is a wrapper around one of the CPU that says that it is on another device, and is computed with as that
device would: what is made on the device stays there, `.cpu()` takes it away, and tensors of two devices do not mix. So
work that goes to the CPU on purpose needs no exception, and one that forgets to is seen. PyTorch knows the device by
the name "meta", the only one beside the CPU that every build of it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CPU, DEVICE = torch.device("cpu"), torch.device("meta")
WIDE = (torch.float64, torch.complex128)


class Refused(AssertionError):
    """Something that the device cannot do."""


class Pretended(Tensor):
    """A tensor on the device; `inner` holds its values."""

    inner: Tensor
    refused: frozenset[str] = frozenset()  # names of operations, without overloads
    is_meta = False  # for ComfyUI, which takes such tensors for weights that are still to be made

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, **options: Any) -> str:
        return f"Pretended({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})


def on_device(value: Any) -> bool:
    """Whether it is a tensor on the device."""
    return isinstance(value, Pretended)


def leaves(value: Any) -> Iterator[Any]:
    """What stands in lists, tuples and dicts: all that operations take. PyTorch's pytree takes five times as long."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    else:
        yield value


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same lists, tuples and dicts, of other leaves."""
    if isinstance(value, (list, tuple)):
        return type(value)([mapped(change, part) for part in value])
    if isinstance(value, dict):
        return {key: mapped(change, part) for key, part in value.items()}
    return change(value)


@cache
def name_of(func: Any) -> str:
    """The name of an operation, without its overload."""
    return func._schema.name.removeprefix("aten::")


def as_computed(value: Any) -> Any:
    """What the CPU computes with in place of a tensor of the device, or of the device."""
    if isinstance(value, Pretended):
        return value.inner
    return CPU if isinstance(value, torch.device) else value


def as_returned(value: Any) -> Any:
    """A result as a tensor of the device."""
    return Pretended(value) if isinstance(value, Tensor) else value


def compute(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation on tensors of the device, or one that makes such."""
    name = name_of(func)
    if name == "_has_compatible_shallow_copy_type":  # Module.to asks
        return False
    given = [*leaves(args), *leaves(kwargs)]
    refuse(func, [leaf for leaf in given if isinstance(leaf, Tensor)])
    device = next((leaf for leaf in given if isinstance(leaf, torch.device)), DEVICE)
    result = func(*mapped(as_computed, args), **mapped(as_computed, kwargs))
    if device.type == CPU.type:
        return result
    if name.endswith("_"):  # into a tensor that is somewhere already
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    if any(leaf.dtype in WIDE for leaf in leaves(result) if isinstance(leaf, Tensor)):
        raise Refused(f"{func} makes float64 on the device")
    return mapped(as_returned, result)


def refuse(func: Any, tensors: list[Tensor]) -> None:
    """Raise Refused for what the device does not have."""
    name = name_of(func)
    if name in Pretended.refused:
        raise Refused(f"{func} is not there on the device")
    if any(on_device(tensor) and tensor.dtype in WIDE for tensor in tensors):
        raise Refused(f"{func} of float64 on the device")
    # A number of no dimensions may come from the CPU, and indices may.
    others = [tensor for tensor in tensors if not on_device(tensor) and tensor.ndim]
    if others and any(map(on_device, tensors)) and name not in ("copy_", "index", "index_put_", "index_put"):
        raise Refused(f"{func} of tensors on two devices")


class _Factories(TorchDispatchMode):
    """What is made on the device, or copied to it, is made there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if any(
            on_device(leaf) or (isinstance(leaf, torch.device) and leaf == DEVICE)
            for given in (args, kwargs)
            for leaf in leaves(given)
        ):
            return compute(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def pretended(refused: Iterable[str]) -> Iterator[torch.device]:
    """The device is there inside the context, without these operations."""
    names = "autocast", "is_autocast_enabled", "get_autocast_dtype", "tensor", "as_tensor"
    before: dict[str, Any] = {name: getattr(torch, name) for name in names}

    def autocast_type(device_type: str) -> str:
        """The CPU in place of the device, of which autocast knows nothing."""
        return CPU.type if device_type == DEVICE.type else device_type

    def from_data(name: str, data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        """torch.tensor and torch.as_tensor; PyTorch's own would read no values for this device."""
        made = before[name](data, *args, **options)
        return made if device is None else made.to(device)

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
            super().__init__(autocast_type(device_type), *args, **options)

    Pretended.refused = frozenset(refused)
    torch.autocast = Autocast  # type: ignore[misc]
    torch.tensor, torch.as_tensor = partial(from_data, "tensor"), partial(from_data, "as_tensor")
    torch.is_autocast_enabled = lambda *kind: before["is_autocast_enabled"](*map(autocast_type, kind))
    torch.get_autocast_dtype = lambda kind: before["get_autocast_dtype"](autocast_type(kind))
    try:
        with _Factories():
            yield DEVICE
    finally:
        Pretended.refused = frozenset()
        for name, value in before.items():
            setattr(torch, name, value)
