"""The same numbers again on a GPU: PyTorch's deterministic algorithms for the time of a step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(device: torch.device, strict: bool = True) -> Iterator[None]:
    """Let everything on a GPU give the same bits again; what was set before is set afterwards. No effect on a CPU.

    Without it the gradients of attention and of convolutions are summed in whatever order their parts are ready.
    With `strict`, what cannot give the same bits raises RuntimeError (see `varying`); without, it runs as it is.
    """
    if device.type == "cpu":
        yield
        return
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, cudnn = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.deterministic
    try:
        torch.utils.deterministic.fill_uninitialized_memory = False  # nobody reads what nobody has written
        torch.backends.cudnn.deterministic = True
        if strict:
            # With warn_only attention would keep to its other algorithm.
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        torch.backends.cudnn.deterministic = cudnn
        torch.utils.deterministic.fill_uninitialized_memory = filled


def varying(error: BaseException) -> str:
    """Why the same bits cannot be had, if that is what an error of `deterministic` says; else ""."""
    message = str(error)
    match = re.match(r"(\S+) does not have a deterministic implementation", message)
    if match:
        return f"PyTorch's {match[1]} has no deterministic algorithm on this device"
    # Older versions (2.11 does not) ask for a variable of the environment, before the first product of all.
    if message.startswith("Deterministic behavior was enabled") and "CuBLAS" in message:
        return "this version of PyTorch needs ComfyUI to be started with --deterministic for that"
    return ""
