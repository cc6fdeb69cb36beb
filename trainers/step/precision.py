"""The precision in which a network computes while it is trained, and loss scaling for half precision."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Precision:
    """compute: what the network is made to compute in; None leaves ComfyUI's own choice. autocast: matrix products in
    bf16 on a network that keeps float32. native: what the network computes in by itself.
    """

    compute: torch.dtype | None
    autocast: bool
    native: torch.dtype

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the activations have in the end."""
        return torch.bfloat16 if self.autocast else self.compute or self.native

    @property
    def name(self) -> str:
        """The precision's name, as in the widget."""
        return _NAMES.get(self.dtype, str(self.dtype).removeprefix("torch."))

    def context(self, device: torch.device) -> Any:
        """The context manager for the forward pass."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 itself: PyTorch emulates it on the older ones, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type != "cpu" and bool(comfy.model_management.should_use_bf16(device))


def resolve(setting: str, model: Any, device: torch.device) -> Precision:
    """The precision for a setting on a ComfyUI model (a BaseModel).

    auto is bf16 where the device has it. Elsewhere on a GPU a model that ComfyUI runs in fp16 stays in that, with loss
    scaling; all others, and all on a CPU, compute in float32.
    """
    native = model.manual_cast_dtype or model.get_dtype()
    if setting == "auto":
        if has_bf16(device):
            setting = "bf16"
        else:
            setting = "fp16" if native == torch.float16 and device.type != "cpu" else "fp32"
    dtype = _DTYPES[setting]
    if native == dtype:
        return Precision(None, False, native)
    # A float32 network keeps its norms and sums in float32. MPS has had no bf16 autocast in some versions.
    if dtype == torch.bfloat16 and native == torch.float32 and device.type != "mps":
        return Precision(None, True, native)
    return Precision(dtype, False, native)


class LossScale:
    """A factor on the loss before the backward pass in fp16, whose smallest number is 6e-8.

    The rule is that of torch.amp.GradScaler: halved where gradients overflow (that pass is then taken again, so that no
    picture is lost), doubled after 2000 good steps in a row. Always powers of two, so it rounds nothing.
    """

    FIRST, LEAST, MOST, GROWS_AFTER = 2.0**16, 1.0, 2.0**24, 2000

    def __init__(self) -> None:
        self.value = self.FIRST
        self.good = 0  # steps since the last change
        self.skipped = 0  # passes whose gradients were not used

    def overflowed(self) -> bool:
        """Lower it after a pass with gradients that are no numbers; False if it is as low as it gets."""
        if self.value <= self.LEAST:
            return False
        self.value, self.good = self.value / 2, 0
        self.skipped += 1
        return True

    def succeeded(self) -> None:
        """Count a good step."""
        self.good += 1
        if self.good == self.GROWS_AFTER and self.value < self.MOST:
            self.value, self.good = self.value * 2, 0

    def undo(self, parameters: list[Tensor]) -> bool:
        """Divide the gradients by it; whether all of them are numbers."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / self.value)
        return all(bool(torch.isfinite(norm)) for norm in torch._foreach_norm(gradients))

    def state(self) -> list[float]:
        """The numbers that a checkpoint keeps."""
        return [self.value, self.good, self.skipped]

    def load(self, state: list[float]) -> None:
        """Take the numbers of a checkpoint."""
        self.value, self.good, self.skipped = float(state[0]), int(state[1]), int(state[2])
