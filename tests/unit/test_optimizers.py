"""Every optimizer of the list, as the package that it is from has it: what it is made with, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deft_pack.trainers.settings.optimizers import OPTIMIZERS, make_optimizer

# Of a layer's factors, a convolution, a bias, and one with more than bitsandbytes' 4096 values.
SHAPES = [(320, 4), (8, 6, 3, 3), (320,), (96, 80)]


def stepped(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """The optimizer after one step of a parameter."""
    generator = torch.Generator().manual_seed(1)
    parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    parameter.grad = torch.randn(shape, generator=generator).to(dtype)
    optimizer = make_optimizer(name, [{"params": [parameter], "rate": 1.0}], 1e-3, 0.0, (0.9, 0.99))
    optimizer.step()
    return optimizer


def kept(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the state, without single numbers and without what all parameters share."""
    values = [value for state in optimizer.state.values() for key, value in state.items() if "qmap" not in key]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor) and value.ndim)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_memory_is_what_is_kept(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert kept(stepped(name, shape, dtype)) == OPTIMIZERS[name].state(shape, dtype.itemsize)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_what_a_record_says_reaches_the_optimizer(name: str) -> None:
    record, optimizer = OPTIMIZERS[name], stepped(name, (96, 80))
    assert type(optimizer).__name__ == record.name
    assert type(optimizer).__module__.startswith(record.module)
    given: dict[str, Any] = optimizer.param_groups[0]
    assert {"lr": 1e-3, "weight_decay": 0.0, **record.options}.items() <= given.items()
    assert given.get("betas") == ((0.9, 0.99) if record.betas else None)
    assert given.get("fused", False) in (record.fused, None)
    assert record.smaller in ("", *OPTIMIZERS)
    if record.smaller:
        assert OPTIMIZERS[record.smaller].state((96, 80), 4) < record.state((96, 80), 4)


def test_adamw_takes_one_pass() -> None:
    assert stepped("AdamW", (320, 4)).param_groups[0]["fused"] is True


def test_adafactor_keeps_rows_and_columns() -> None:
    state = OPTIMIZERS["Adafactor"].state
    assert state((320, 4), 4) == 4 * 324
    assert state((320,), 4) == 4 * 320
    assert state((1280, 1280), 4) < OPTIMIZERS["AdamW"].state((1280, 1280), 4) / 1000
