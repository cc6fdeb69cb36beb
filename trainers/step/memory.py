"""The memory that a training needs, measured by one forward pass that keeps nothing; what to do if there is less."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ..settings.optimizers import OPTIMIZERS
from ..settings.settings import Settings
from .network import checkpointed_blocks

# Bytes of the backward pass over those of all layers' outputs: 0.6 (SD3) to 0.8 (UNets) are kept, and gradients come.
KEPT = 1.0


@dataclass(frozen=True)
class Estimate:
    """Bytes: the model as it is loaded, the adapter with gradients and optimizer, activations of one batch."""

    model: int
    adapter: int
    activations: int

    @property
    def added(self) -> int:
        """The bytes that the training needs beside the loaded model."""
        return self.adapter + self.activations

    def text(self) -> str:
        """The estimate as a line for the log and the report."""
        model, adapter, activations = map(readable, (self.model, self.adapter, self.activations))
        return f"memory estimate: model {model}, adapter {adapter}, activations {activations}"


def readable(size: int) -> str:
    """A number of bytes as text, in MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def room(needed: Estimate, free: int, settings: Settings) -> list[str]:
    """Lines on what a training needs beside the loaded model, and what is free for that; a warning if it is less."""
    line = f"memory: the training needs {readable(needed.added)} beside the loaded model, and {readable(free)} are free"
    if needed.added <= free:
        return [line]
    return [f"WARNING: {line}: {', or '.join(changes(settings))}"]


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
        raise ValueError(
            f"Training {settings.method} on these {len(kept)} layers keeps {readable(int(needed))} beside the model, "
            f"and {readable(int(free))} are free: choose fewer layers (attention), AdamW 8-bit, or the method deft."
        )


@torch.no_grad()
def activation_bytes(root: nn.Module, run: Callable[[], Tensor], checkpointing: bool, batch: int) -> tuple[Tensor, int]:
    """The result of a forward pass `run` of one example, and the bytes that the backward pass of a batch needs by it.

    With gradient checkpointing: the outputs of all blocks, and the largest block's inside.
    """
    blocks = list(checkpointed_blocks(root).values()) if checkpointing else []
    inside = {module: index for index, block in enumerate(blocks) for module in block.modules()}
    parts = [0] * (len(blocks) + 1)  # the last: outside of all blocks
    kept = 0
    leaves = [module for module in root.modules() if not list(module.children())]

    def count(module: nn.Module, args: object, output: object) -> None:
        parts[inside.get(module, len(blocks))] += size_of(output)

    def count_block(module: nn.Module, args: object, output: object) -> None:
        nonlocal kept
        kept += size_of(output)

    handles = [module.register_forward_hook(count) for module in leaves]
    handles += [block.register_forward_hook(count_block) for block in blocks]
    try:
        loss = run()
    finally:
        for handle in handles:
            handle.remove()
    *within, outside = parts
    return loss, int(batch * (KEPT * (outside + max(within, default=0)) + kept))


def size_of(output: object) -> int:
    """Bytes of the tensors in a module's output."""
    if isinstance(output, Tensor):
        return output.numel() * output.element_size()
    return sum(size_of(item) for item in output) if isinstance(output, (list, tuple)) else 0


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


def changes(settings: Settings) -> list[str]:
    """What to change where memory is short, in the order of what costs least."""
    lines = []
    if not settings.gradient_checkpointing:
        lines.append("switch gradient checkpointing on")
    if settings.batch_size > 1:
        lines.append(f"lower the batch size ({settings.batch_size}) and raise accumulation instead")
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
