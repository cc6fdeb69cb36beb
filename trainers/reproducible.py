"""The same numbers again on a GPU: PyTorch's deterministic algorithms for the time of a step."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch refuses cuBLAS without this. It gives each stream a workspace of its own, whatever this says.
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(device: torch.device, strict: bool = True) -> Iterator[None]:
    """Let everything on a GPU give the same bits again; what was set before is set afterwards. No effect on a CPU.

    Without it the gradients of attention and of convolutions are summed in whatever order their parts are ready.
    With `strict`, an operation that has no deterministic algorithm raises RuntimeError (see `not_deterministic`);
    without, such operations run as they are.
    """
    if device.type == "cpu":
        yield
        return
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, cudnn = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.deterministic
    workspace = os.environ.get(CUBLAS)
    try:
        torch.utils.deterministic.fill_uninitialized_memory = False  # nobody reads what nobody has written
        torch.backends.cudnn.deterministic = True
        if strict:
            os.environ.setdefault(CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        torch.backends.cudnn.deterministic = cudnn
        torch.utils.deterministic.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(CUBLAS, None)


def not_deterministic(error: BaseException) -> str:
    """The operation that has no deterministic algorithm, where an error says so; else ""."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    return found[1] if found else ""
