"""The memory that a training needs, measured by one forward pass that keeps nothing; what to do if there is less."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..settings.checkpointing import CHECKPOINTING_MODES, EVERY, OFF, OFFLOADED, SECOND
from ..settings.optimizers import OPTIMIZERS
from ..settings.settings import Settings
from .activation_bytes import ActivationBytes

SAME_MEMORY = ("cpu", "mps")  # devices whose memory is the computer's


@dataclass(frozen=True)
class Estimate:
    """Bytes: the model as it is loaded, the adapter with gradients and optimizer, activations of one batch, and what of
    these is in the computer's memory. mode: of gradient checkpointing; more: the share of operations that it adds.
    """

    model: int
    adapter: int
    activations: int
    host: int = 0
    mode: str = OFF
    more: float = 0.0

    @property
    def added(self) -> int:
        """The bytes that the training needs beside the loaded model."""
        return self.adapter + self.activations

    def text(self) -> str:
        """The estimate as a line for the log and the report."""
        model, adapter, activations = map(readable, (self.model, self.adapter, self.activations))
        line = f"memory estimate: model {model}, adapter {adapter}, activations {activations}"
        if self.mode == OFF:
            return line
        moved = f", {readable(self.host)} in the computer's memory" if self.host else ""
        return f"{line}{moved}; gradient checkpointing: {self.mode}, {self.more:.0%} more operations"


@dataclass(frozen=True)
class Needs:
    """What a training needs in any mode of gradient checkpointing: as in `Estimate`, and what a forward pass showed."""

    model: int
    adapter: int
    batch: int
    shown: ActivationBytes

    def of(self, mode: str) -> Estimate:
        """The estimate for a mode."""
        activations, host = self.batch * self.shown.on_device(mode), self.batch * self.shown.on_host(mode)
        return Estimate(self.model, self.adapter, activations, host, mode, self.shown.more(mode))

    def choose(self, free: int, free_host: int, device: torch.device) -> tuple[str, str]:
        """The mode that costs least and fits, and a line on why; the one that needs least where none fits.

        free: bytes beside the loaded model; free_host: of the computer's memory. device: of the model. Where that is
        the computer's memory, nothing is offloaded.
        """
        estimates = [self.of(mode) for mode in CHECKPOINTING_MODES]
        if device.type in SAME_MEMORY or estimates[-1].host > free_host:
            estimates.pop()
        chosen = next((it for it in estimates if it.added <= free), min(estimates, key=lambda it: it.added))
        tried = estimates[: estimates.index(chosen)]
        reasons = [f"{it.mode} needs {readable(it.added)} beside the model" for it in [*tried, chosen]]
        line = f"auto chose gradient checkpointing {chosen.mode!r}: {', '.join(reasons)}, and {readable(free)} are free"
        return chosen.mode, line


def free_for(patchers: Sequence[Any], device: torch.device) -> int:
    """Bytes on a device that a training may take without weights of its own models being put away: what is free, and
    what ComfyUI can free by putting away other models, but for what it keeps free.
    """
    others = 0
    for loaded in comfy.model_management.current_loaded_models:
        other = loaded.model
        if other is not None and loaded.device == device and not any(other.is_clone(patcher) for patcher in patchers):
            others += loaded.model_loaded_memory()
    free = comfy.model_management.get_free_memory(device) + others - comfy.model_management.extra_reserved_memory()
    return max(0, int(free))


def readable(size: int) -> str:
    """A number of bytes as text, in MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def room(needed: Estimate, free: int, settings: Settings) -> list[str]:
    """Lines on what a training needs beside the loaded model, and what is free for that; a warning if it is less."""
    line = f"memory: the training needs {readable(needed.added)} beside the loaded model, and {readable(free)} are free"
    if needed.added <= free:
        return [line]
    return [f"WARNING: {line}: {', or '.join(changes(settings, needed.mode))}"]


def adapter_bytes(parameters: Sequence[Tensor], optimizer: str, ema: bool) -> int:
    """Values, gradients, optimizer's state, moving average, and the factors that are made of them each step."""
    values = sum(parameter.numel() for parameter in parameters)
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    state = sum(OPTIMIZERS[optimizer].state(parameter.shape, parameter.element_size()) for parameter in parameters)
    return 3 * size + state + (4 * values if ema else 0)


def check_free(device: torch.device, modules: Iterable[Any], settings: Settings) -> None:
    """Raise ValueError where a method that keeps as much as the layers' own size has no room for it."""
    kept_values = settings.training.kept_values
    if kept_values is None:
        return
    shapes = [module.weight.shape for module in modules]
    kept = [kept_values(shape) for shape in shapes]
    bytes_of_one, state = 2 if settings.adapter_precision == "bf16" else 4, OPTIMIZERS[settings.optimizer].state
    trained = sum(
        2 * count * bytes_of_one + state(shape if count == math.prod(shape) else (count,), bytes_of_one)
        for shape, (count, _) in zip(shapes, kept, strict=True)
    )
    needed, free = trained + 4 * sum(count for _, count in kept), comfy.model_management.get_free_memory(device)
    if needed > free:
        smaller = OPTIMIZERS[settings.optimizer].smaller
        optimizer = f"the optimizer {smaller}, " if smaller else ""
        raise ValueError(
            f"Training {settings.method} on these {len(kept)} layers needs {readable(int(needed))} beside the model, "
            f"but {readable(int(free))} are free: choose fewer layers, {optimizer}or a method with a rank."
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the device, or of the machine, was too small."""
    message = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or comfy.model_management.OOM_EXCEPTION is not Exception
        and isinstance(error, comfy.model_management.OOM_EXCEPTION)
        or isinstance(error, RuntimeError)
        and any(words in message for words in ("out of memory", "can't allocate memory", "not enough memory"))
    )


def changes(settings: Settings, mode: str | None = None) -> list[str]:
    """What to change where memory is short, in the order of what costs least. mode: of gradient checkpointing, where
    that is not what the settings have.
    """
    lines = []
    mode = mode or settings.mode
    if mode == OFF:
        lines.append("switch gradient checkpointing on")
    elif mode == SECOND:
        lines.append(f"choose checkpointing {EVERY!r}")
    if settings.batch_size > 1:
        lines.append(f"lower the batch size ({settings.batch_size}) and raise accumulation instead")
    if mode == EVERY and comfy.model_management.get_torch_device().type not in SAME_MEMORY:
        lines.append(f"choose checkpointing {OFFLOADED!r}")
    if settings.precision == "fp32":
        lines.append("use precision bf16")
    if smaller := OPTIMIZERS[settings.optimizer].smaller:
        lines.append(f"use {smaller}")
    return [*lines, "train on smaller pictures"]


def advice(settings: Settings, error: BaseException) -> str:
    """The error message: what to change."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    advised = ", or ".join(changes(settings))
    return f"There is not enough memory for this training: {advised}. Everything was freed. ({reason})"
