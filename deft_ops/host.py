"""The CPU for work that some devices cannot do.

Apple's MPS has no float64 at all, and most of Intel's Arc GPUs have none. QR, SVD, eigenvalues and Cholesky are missing
there in many versions of PyTorch, or slower than a copy to the CPU, or wrong (MPS's first SVD, in PyTorch 2.14). So
only a CPU and CUDA, which AMD's GPUs are called as well, are trusted with them. tests/comfy/test_devices.py has a table
with sources.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

ResultT = TypeVar("ResultT")

_TRUSTED = ("cpu", "cuda")
_warned: set[tuple[str, str]] = set()


def trusted(device: torch.device) -> bool:
    """Whether float64 and all of torch.linalg may be used on this device."""
    return device.type in _TRUSTED


def on_host(function: Callable[..., ResultT], *arguments: Any, slow: str = "") -> ResultT:
    """Run `function(*arguments)`, on the CPU if the first tensor among the arguments is on no `trusted` device.

    Tensors come to the CPU before and go back to that device after, also those in a tuple, list or dict that is
    returned; none of those may be float64. Differentiable. `slow` names work that takes long: that it is done on the
    CPU is logged, once for each kind of device.
    """
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    if trusted(device):
        return function(*arguments)
    if slow and (slow, device.type) not in _warned:
        _warned.add((slow, device.type))
        logging.info(f"{slow}: computed on the CPU, because {device.type} cannot do it. This takes longer.")
    moved = [argument.cpu() if isinstance(argument, Tensor) else argument for argument in arguments]
    returned: ResultT = _moved(function(*moved), device)
    return returned


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(item, device) for item in value)
    return value
