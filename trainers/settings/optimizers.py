"""The optimizers, from well-kept packages. A new one is one entry here."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# From the shape of a parameter and the bytes of one of its values to the bytes of the optimizer's state.
_State = Callable[[Sequence[int], int], int]


def copies(count: int) -> _State:
    """The size of so many tensors of the parameter's shape and type."""
    return lambda shape, size: count * math.prod(shape) * size


def two_in_8_bit(shape: Sequence[int], size: int) -> int:
    """bitsandbytes: two tensors of bytes with a scale for each 256 values; in float32 for less than 4096 values."""
    count = math.prod(shape)
    return 8 * count if count < 4096 else 2 * (count + 4 * math.ceil(count / 256))


def rows_and_columns(shape: Sequence[int], size: int) -> int:
    """A mean for each row and each column of the last two dimensions; for vectors all values."""
    if len(shape) < 2:
        return math.prod(shape) * size
    *outer, rows, columns = shape
    return math.prod(outer) * (rows + columns) * size


@dataclass(frozen=True)
class Optimizer:
    """about: when to choose it. module, name: where the class is. package: what to install for it, if PyTorch does not
    bring it.

    state: bytes of memory. betas: it takes beta1 and beta2. fused: it has one pass over a parameter instead of ten, on
    CPUs and CUDA. one_rate: it finds one learning rate for all. smaller: what to choose where memory is short.
    to_adamw: the learning rate that it wants relative to AdamW's; None: its scale is its own.
    """

    about: str
    module: str
    name: str
    state: _State
    package: str = ""
    betas: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    fused: bool = False
    one_rate: bool = False
    smaller: str = ""
    to_adamw: float | None = 1.0

    @property
    def words(self) -> str:
        """What to know of it, for the help page: when to choose it, its learning rate, its package."""
        parts = [self.about]
        if self.to_adamw is None:
            parts.append("set the learning rate to 1")
        elif self.to_adamw != 1:
            parts.append(f"use {self.to_adamw:g} times AdamW's learning rate")
        parts += [f"needs the package {self.package}"] * bool(self.package)
        return "; ".join(parts)


# By the name in the widget.
OPTIMIZERS: dict[str, Optimizer] = {
    "AdamW": Optimizer("right in most cases", "torch.optim", "AdamW", copies(2), fused=True, smaller="AdamW 8-bit"),
    "AdamW 8-bit": Optimizer(
        "a quarter of AdamW's state", "bitsandbytes.optim", "AdamW8bit", two_in_8_bit, "bitsandbytes"
    ),
    # Its every step is as large as the learning rate; its paper takes a tenth to a third of AdamW's.
    "Lion": Optimizer("half of AdamW's state", "lion_pytorch", "Lion", copies(1), "lion-pytorch", to_adamw=0.2),
    # Its steps are relative to a parameter's size, at least the second of eps: an adapter starts at or near 0. With 1
    # for that a step is as large as AdamW's.
    "Adafactor": Optimizer(
        "hardly any memory for its state",
        "torch.optim",
        "Adafactor",
        rows_and_columns,
        betas=False,
        options={"eps": (None, 1.0)},
    ),
    "Prodigy": Optimizer(
        "finds its step size by itself", "prodigyopt", "Prodigy", copies(4), "prodigyopt", one_rate=True, to_adamw=None
    ),
}


def make_optimizer(
    name: str, groups: list[dict[str, Any]], rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The optimizer over parameter groups, each with its `rate` relative to the learning rate.

    Raises:
        ValueError: a package that is not installed, with its name; several rates for one that finds one for all.
    """
    record = OPTIMIZERS[name]
    if record.one_rate and len({group["rate"] for group in groups} - {0.0}) > 1:
        raise ValueError(
            f"{name} finds one learning rate for all: set text_rate and the method's own rates to 1, or choose AdamW."
        )
    try:
        make = getattr(importlib.import_module(record.module), record.name)
    except ImportError as error:
        raise ValueError(
            f"The optimizer {name} needs the package {record.package!r}, which is not installed: install it with "
            f"`{sys.executable} -m pip install {record.package}` and start ComfyUI again, or choose AdamW."
        ) from error
    options = dict(record.options)
    if record.betas:
        options["betas"] = betas
    if record.fused and all(value.device.type in ("cpu", "cuda") for group in groups for value in group["params"]):
        options["fused"] = True
    optimizer: torch.optim.Optimizer = make(
        [group | {"lr": rate * group["rate"]} for group in groups], lr=rate, weight_decay=weight_decay, **options
    )
    return optimizer


def parts_of(name: str, dimensions: int) -> set[str] | None:
    """What one of PyTorch's optimizers keeps of a parameter with so many dimensions, by name; None for other packages',
    which may keep a small parameter in another form.
    """
    if not OPTIMIZERS[name].module.startswith("torch."):
        return None
    parameter = torch.nn.Parameter(torch.zeros((2,) * dimensions))
    parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer(name, [{"params": [parameter], "rate": 1.0}], 1e-3, 0.0, (0.9, 0.999))
    optimizer.step()
    return {str(key) for key in optimizer.state[parameter]}
