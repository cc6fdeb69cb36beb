"""Convolutions as matrix products, beside PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deft_pack.deft_ops import convolution
from deft_pack.deft_ops.layer_ops import op_of

from ..tools import relative

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])
@pytest.mark.parametrize("count", [1, 3], ids=["one", "batch"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (1, 1, 0, 1),
        (1, 2, 0, 1),
        (1, 1, 1, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (3, 2, 0, 1),
        (3, 1, 2, 2),
        ((2, 3), (1, 2), (0, 2), (2, 1)),
        ((4, 1), (3, 1), (1, 0), 1),
    ],
)
def test_output_and_gradient_are_those_of_pytorch(
    kernel: object, stride: object, padding: object, dilation: object, bias: bool, count: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 10, kernel, stride, padding, dilation, bias=bias).to(dtype)  # type: ignore[arg-type]
    x = torch.randn(count, 6, 9, 7).to(dtype).requires_grad_()
    y = layer(x)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, grad)
    op = op_of(layer)
    with torch.no_grad():
        own = convolution.convolve(op, x, layer.weight, layer.bias)
        gradient = convolution.input_gradient(op, x.shape, layer.weight, grad)
    assert own.shape == y.shape
    assert gradient.shape == x.shape
    assert own.dtype == gradient.dtype == dtype
    assert own.is_contiguous()
    assert gradient.is_contiguous()
    assert relative(own, y) < TOLERANCE[dtype]
    assert relative(gradient, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_the_input_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Small ones go through PyTorch's fold, large ones through a loop over the kernel."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 64, (3, 2), (1, 2), (1, 0), (2, 1)).to(dtype)
    shape = (2, 6, 9, 8)
    grad = torch.randn_like(layer(torch.zeros(shape, dtype=dtype)))
    with torch.no_grad():
        folded = convolution.input_gradient(op_of(layer), shape, layer.weight, grad)
        monkeypatch.setattr(convolution.F, "fold", None)
        monkeypatch.setattr(convolution, "_FEW", 0)
        looped = convolution.input_gradient(op_of(layer), shape, layer.weight, grad)
    assert torch.equal(folded, looped)


@pytest.mark.parametrize(
    ("layer", "shape", "suits"),
    [
        (nn.Conv2d(4, 64, 3, padding=1), (1, 4, 3, 3), True),
        (nn.Conv2d(4, 64, 3, padding=1), (1, 4, 4, 4), False),  # 64 rows are less than five times 16 pixels
        (nn.Conv2d(4, 64, 3, padding=1, stride=2), (1, 4, 4, 4), True),
        (nn.Conv2d(4, 64, 3, padding=1), (2, 4, 3, 3), False),
        (nn.Conv2d(4, 8, 1), (1, 4, 64, 64), True),
        (nn.Conv2d(4, 8, 1, stride=2), (1, 4, 64, 64), False),
        (nn.Conv2d(4, 64, 3, padding="same"), (1, 4, 3, 3), False),
        (nn.Conv2d(4, 64, 3, padding=1).half(), (1, 4, 3, 3), False),
        (nn.Conv1d(4, 64, 1), (1, 4, 3), False),
        (nn.Conv3d(4, 64, 1), (1, 4, 1, 3, 3), False),
        (nn.Linear(4, 64), (1, 4), False),
        (nn.Conv2d(4, 64, 3, padding=1, device="meta"), (1, 4, 3, 3), False),
    ],
)
def test_where_it_is_used(layer: nn.Module, shape: tuple[int, ...], suits: bool) -> None:
    assert convolution.suits(op_of(layer), shape, layer.weight) is suits
