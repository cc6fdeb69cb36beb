"""SVDiff and DreamBooth in training: the forms that the trainer uses, beside the written formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from deft_pack.deft_ops import methods
from deft_pack.deft_ops.changes import LowRank, WeightChange
from deft_pack.deft_ops.layer_ops import op_of

from ..tools import relative

SVDIFF, DREAMBOOTH = methods.training_of("svdiff"), methods.training_of("dreambooth")
OWN = SVDIFF.settings_of()
assert SVDIFF.base is not None
BASE = SVDIFF.base


def no_weight() -> Tensor:
    raise AssertionError("a weight is fetched for nothing")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_and_input(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    if kind == "linear":
        return nn.Linear(20, 24).requires_grad_(False), torch.randn(2, 5, 20)
    return nn.Conv2d(6, 24, (3, 2), (2, 1), (1, 0)).requires_grad_(False), torch.randn(2, 6, 9, 8)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_svdiff_on_activations_is_the_written_formula(kind: str) -> None:
    """Output and gradient of the shifts against U diag(relu(sigma + d)) V^T in float64; some values reach zero."""
    layer, x = layer_and_input(kind)
    params = SVDIFF.init(layer.weight, 1, OWN, generator())
    base = BASE.of(layer.weight)
    assert not BASE.delta(SVDIFF.factors(params, OWN), layer.weight, base).any()
    shifts = params["shifts"]
    with torch.no_grad():
        shifts += torch.randn(shifts.shape, generator=generator(1))
        shifts[-1] = -1 - base.sigma[-1]

    U, sigma, Vh = torch.linalg.svd(layer.weight.double().flatten(1), full_matrices=False)
    reference = shifts.detach().double().requires_grad_()
    changed = ((U * torch.relu(sigma + reference)) @ Vh).reshape(layer.weight.shape)
    if kind == "linear":
        expected = linear(x.double(), changed, layer.bias.double())
    else:
        expected = conv2d(x.double(), changed, layer.bias.double(), layer.stride, layer.padding)
    change = SVDIFF.change(SVDIFF.factors(params, OWN), no_weight, base)
    assert isinstance(change, LowRank)
    y = layer(x)
    y = y + change.forward(op_of(layer), x, y)
    assert relative(y, expected) < 2e-5  # of a decomposition in float32
    grad = torch.randn(y.shape, generator=generator(2))
    (own,) = torch.autograd.grad(y, shifts, grad)
    (expected_grad,) = torch.autograd.grad(expected, reference, grad.double())
    assert relative(own, expected_grad) < 2e-4
    assert own[-1] == expected_grad[-1] == 0


@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 2, 3, 3)], ids=["norm", "one row", "one filter"])
def test_a_weight_of_one_row_is_scaled(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=generator())
    params = SVDIFF.init(weight, 1, OWN, generator())
    assert params["shifts"].shape == (1,)
    with torch.no_grad():
        params["shifts"] += 0.5
    change = SVDIFF.change(SVDIFF.factors(params, OWN), no_weight, BASE.of(weight))
    assert isinstance(change, WeightChange)
    assert torch.allclose(change.weight.reshape(shape), weight * 0.5 / weight.norm(), atol=1e-6)


def test_svdiff_keeps_what_it_says() -> None:
    for shape in ((7,), (4, 9), (6, 2, 3, 3)):
        base = BASE.of(torch.randn(shape))
        fixed = sum(value.numel() for value in vars(base).values())
        assert SVDIFF.kept_values is not None
        assert SVDIFF.kept_values(shape) == (len(base.sigma), fixed)


def test_dreambooth_is_a_difference() -> None:
    layer, _ = layer_and_input("conv")
    own = DREAMBOOTH.settings_of()
    assert DREAMBOOTH.init_bias is not None
    assert DREAMBOOTH.kept_values is not None
    params = DREAMBOOTH.init(layer.weight, 1, own, generator()) | DREAMBOOTH.init_bias(layer.bias)
    assert DREAMBOOTH.kept_values(layer.weight.shape) == (layer.weight.numel(), 0)
    with torch.no_grad():
        for name, value in params.items():
            value += torch.randn(value.shape, generator=generator(len(name)))
    factors = DREAMBOOTH.factors(params, own)
    change = DREAMBOOTH.change(factors, no_weight, None)
    assert isinstance(change, WeightChange)
    assert change.bias is not None
    assert torch.equal(change.weight, params["weight"])
    assert torch.equal(change.bias, params["bias"])
    assert torch.equal(methods.get("dreambooth").delta(factors, layer.weight, strength=0.5), 0.5 * params["weight"])
    assert methods.get("dreambooth").to_tensors(factors).keys() == {"diff", "diff_b"}
    assert methods.find(["diff", "diff_b"]) is None  # ComfyUI's own loader reads them
