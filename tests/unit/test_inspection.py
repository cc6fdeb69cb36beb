"""The numbers of one layer, against torch.linalg on the full matrices in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deft_pack.deft_ops import inspection, methods
from deft_pack.deft_ops.projectors import PROJECTORS, project

from ..tools import random

SHAPES = {"linear": (24, 20), "tall": (40, 6), "conv": (12, 5, 3, 3)}
RANKS = (1, 4, 40)  # 40 is more than any layer here has inputs


def entropy_rank(matrix: Tensor) -> float:
    """Roy and Vetterli 2007, from all singular values."""
    sigma = torch.linalg.svdvals(matrix.double())
    p = sigma / sigma.sum()
    p = p[p > 0]
    return math.exp(-float((p * p.log()).sum()))


def check(change: inspection.Measured, delta: Tensor, weight: Tensor) -> None:
    """norm, base, ratio, effective and stable rank of a full change of the shape of the weight."""
    matrix = delta.double().reshape(len(delta), -1) if delta.ndim > 1 else delta.double()[None]
    norm, base = float(matrix.square().sum().sqrt()), float(weight.double().square().sum().sqrt())
    assert change.norm == pytest.approx(norm, rel=1e-5)
    assert change.base == pytest.approx(base, rel=1e-5)
    assert change.ratio == pytest.approx(norm / base, rel=1e-5)
    assert change.effective_rank == pytest.approx(entropy_rank(matrix), rel=2e-3)
    assert change.stable_rank == pytest.approx((norm / float(torch.linalg.matrix_norm(matrix, 2))) ** 2, rel=1e-5)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("projector", PROJECTORS)
def test_deft(projector: str, shape: tuple[int, ...], rank: int) -> None:
    weight = random(*shape, seed=0)
    W = weight.flatten(1).double()
    rank = min(rank, len(W))
    Q, right = project(random(len(W), rank, seed=1), projector)
    R, scale = random(rank, W.shape[1], seed=2), 0.4
    deft = methods.get("deft")
    change = inspection.measure(deft, deft.Factors(Q, None if right is Q else right, R, scale), weight)
    removed = Q.double() @ right.double().T @ W
    injected = scale * Q.double() @ R.double()
    check(change, (injected - removed).reshape(shape), weight)
    assert change.removed == pytest.approx(float(removed.norm() / W.norm()), rel=1e-5)
    assert change.injected == pytest.approx(float(injected.norm() / W.norm()), rel=1e-5)
    cosine = float((removed * injected).sum() / removed.norm() / injected.norm())
    assert change.overlap == pytest.approx(cosine, abs=1e-5)
    identity = float((Q.double().T @ Q.double() - torch.eye(rank)).abs().max())
    assert change.orthonormality == pytest.approx(identity, rel=1e-3, abs=2e-6)
    assert (change.orthonormality < 2e-6) == (projector in ("qr", "svd"))


def test_deft_at_its_start_puts_back_what_it_removes() -> None:
    weight, deft = random(24, 20, seed=0), methods.get("deft")
    training = methods.training_of("deft")
    params = training.init(weight, 4, training.settings_of(), torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = inspection.measure(deft, training.factors(params, training.settings_of()), weight)
    assert change.overlap == pytest.approx(1.0, abs=1e-6)
    assert change.removed == pytest.approx(change.injected)
    assert change.removed is not None
    assert change.removed > 0.2
    assert change.ratio < 1e-6


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_para(shape: tuple[int, ...]) -> None:
    weight, para = random(*shape, seed=0), methods.get("para")
    Q, _ = project(random(len(weight), 3, seed=1), "qr")
    change = inspection.measure(para, para.Factors(Q), weight)
    removed = Q.double() @ Q.double().T @ weight.flatten(1).double()
    check(change, -removed.reshape(shape), weight)
    assert change.removed == pytest.approx(change.ratio, rel=1e-6)
    assert change.injected == 0
    assert change.overlap == 0


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_lora(shape: tuple[int, ...], rank: int) -> None:
    weight, lora = random(*shape, seed=0), methods.get("lora")
    up, down = random(len(weight), rank, seed=1), random(rank, weight.flatten(1).shape[1], seed=2)
    change = inspection.measure(lora, lora.Factors(up, down, 0.3), weight)
    check(change, (0.3 * up.double() @ down.double()).reshape(shape), weight)
    assert (change.removed, change.injected, change.overlap, change.orthonormality) == (None,) * 4


def full_rank(kind: str, shape: tuple[int, ...], weight: Tensor) -> tuple[Any, Tensor]:
    """The factors of a method without a low-rank form, and its change written out in float64."""
    W = weight.double().flatten(1) if weight.ndim > 1 else weight.double()[None]
    if kind == "svdiff":
        shifts = 0.3 * random(min(W.shape), seed=1)
        U, sigma, Vh = torch.linalg.svd(W, full_matrices=False)
        return methods.get(kind).Factors(shifts), U @ torch.diag(torch.relu(sigma + shifts.double())) @ Vh - W
    if kind == "oft":
        rotation = torch.linalg.qr(random(W.shape[1] // 5, 5, 5, seed=1))[0]
        return methods.get(kind).Factors(rotation), W @ torch.block_diag(*rotation.double()) - W
    up, down = random(len(W), 3, seed=1), random(3, W.shape[1], seed=2)
    norms = random(len(W), 1, seed=3).abs() + 0.5
    merged = W + 0.5 * up.double() @ down.double()
    return (
        methods.get(kind).Factors(up, down, norms, 0.5),
        norms.double() * merged / merged.norm(dim=1, keepdim=True) - W,
    )


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("svdiff", (24, 20)),
        ("svdiff", (12, 5, 3, 3)),
        ("svdiff", (20,)),
        ("oft", (24, 20)),
        ("oft", (12, 5, 3, 3)),
        ("dora", (24, 20)),
        ("dora", (12, 5, 3, 3)),
    ],
)
def test_methods_without_a_low_rank_form(kind: str, shape: tuple[int, ...]) -> None:
    weight = random(*shape, seed=0)
    factors, delta = full_rank(kind, shape, weight)
    change = inspection.measure(methods.get(kind), factors, weight)
    check(change, delta.reshape(shape), weight)
    assert change.removed is None
    assert change.orthonormality is None


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_ranks_of_known_spectra(rank: int) -> None:
    """Equal singular values: both ranks are their number. Values 1, 0, 0: both are 1."""
    up, down = torch.linalg.qr(random(20, rank, seed=1))[0], torch.linalg.qr(random(30, rank, seed=2))[0].T
    sigma = inspection.singular_values(up, 3.0 * down)
    assert torch.allclose(sigma, torch.full((rank,), 3.0), rtol=1e-5)
    assert inspection.effective_rank(sigma) == pytest.approx(rank, rel=1e-6)
    assert inspection.stable_rank(sigma) == pytest.approx(rank, rel=1e-6)
    first = torch.cat([torch.ones(1), torch.zeros(rank)])
    assert inspection.effective_rank(first) == inspection.stable_rank(first) == 1


def test_no_product_of_the_outer_sizes_is_formed() -> None:
    """A product of 160 GB would not fit: 200 000 x 200 000."""
    up, down = random(200_000, 3, seed=1), random(3, 200_000, seed=2)
    sigma = inspection.singular_values(up, down)
    gram = (up.double().T @ up.double()) @ (down.double() @ down.double().T)
    expected = torch.linalg.eigvals(gram).real.sqrt().sort(descending=True).values
    assert torch.allclose(sigma.double(), expected, rtol=1e-4)


def test_nothing_changes() -> None:
    weight, lora = random(6, 5, seed=0), methods.get("lora")
    change = inspection.measure(lora, lora.Factors(torch.zeros(6, 2), random(2, 5, seed=1)), weight)
    assert (change.norm, change.ratio, change.effective_rank, change.stable_rank) == (0, 0, 0, 0)
    change = inspection.measure(lora, lora.Factors(random(6, 2, seed=2), random(2, 5, seed=1)), torch.zeros(6, 5))
    assert change.ratio == math.inf
    assert inspection.measure(lora, lora.Factors(torch.zeros(6, 2), torch.zeros(2, 5)), torch.zeros(6, 5)).ratio == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_measured_in_float32(dtype: torch.dtype) -> None:
    weight, deft = random(24, 20, seed=0).to(dtype), methods.get("deft")
    Q, R = project(random(24, 4, seed=1), "qr")[0].to(dtype), random(4, 20, seed=2).to(dtype)
    change = inspection.measure(deft, deft.Factors(Q, None, R, 1.0), weight)
    W, P = weight.double(), Q.double()
    check(change, P @ (R.double() - P.T @ W), weight)
