"""The projector qr by CholeskyQR2: PyTorch's QR in float64 is what it is compared with, in value and gradient."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from deft_pack.deft_ops import host, projectors
from deft_pack.deft_ops.projectors import LARGEST_CONDITION, orthonormal, project, project_all

from ..tools import relative

SHAPES = [(320, 8), (1280, 32), (64, 16), (40, 40), (7, 1)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditioned(rows: int, columns: int, condition: float, seed: int = 0, size: float = 0.02) -> Tensor:
    """A matrix with singular values from `size` down to `size / condition`."""
    numbers = generator(seed)
    U, _ = torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=numbers))
    V, _ = torch.linalg.qr(torch.randn(columns, columns, dtype=torch.float64, generator=numbers))
    sigma = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), columns, dtype=torch.float64)
    return (size * (U * sigma) @ V).float()


def exact(P: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Q of PyTorch's QR in float64 with a positive diagonal, and the gradient of sum(grad Q)."""
    P = P.double().requires_grad_()
    Q, R = torch.linalg.qr(P)
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    (of_P,) = torch.autograd.grad(Q, P, grad.double())
    return Q.detach(), of_P


def ours(P: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    P = P.clone().requires_grad_()
    Q = orthonormal(P)
    (of_P,) = torch.autograd.grad(Q, P, grad)
    return Q.detach(), of_P


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that have gone to PyTorch's QR."""
    shapes: list[tuple[int, ...]] = []
    before = projectors.raw_qr
    monkeypatch.setattr(projectors, "raw_qr", lambda P: (shapes.append(tuple(P.shape)), before(P))[1])
    return shapes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", [1.0, 3.0, 10.0])
def test_the_same_as_qr(shape: tuple[int, int], condition: float, decomposed: list) -> None:
    P = torch.stack([conditioned(*shape, condition, seed) for seed in range(3)])
    grad = torch.randn(P.shape, generator=generator(9))
    Q, of_P = ours(P, grad)
    expected, expected_grad = exact(P, grad)
    assert not decomposed
    assert (Q - expected).abs().max() < 1.5e-7
    assert relative(of_P, expected_grad) < 1e-6
    orthonormality = Q.mT.double() @ Q.double() - torch.eye(shape[1], dtype=torch.float64)
    assert orthonormality.abs().max() < 1e-6


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_the_size_of_P_means_nothing(size: float, decomposed: list) -> None:
    P = conditioned(320, 8, 3.0, size=size)[None]
    assert (orthonormal(P) - exact(P, P)[0]).abs().max() < 1.5e-7
    assert not decomposed


@pytest.mark.parametrize("condition", [30.0, 100.0, 300.0, 700.0])
def test_as_good_as_qr_up_to_the_bound(condition: float, decomposed: list) -> None:
    """Errors grow with the condition; PyTorch's own QR in float32 has larger ones."""
    P = torch.stack([conditioned(320, 8, condition, seed) for seed in range(8)])
    grad = torch.randn(P.shape, generator=generator(9))
    Q, of_P = ours(P, grad)
    assert not decomposed
    theirs = P.clone().requires_grad_()
    plain, R = torch.linalg.qr(theirs)
    plain = plain * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    (of_theirs,) = torch.autograd.grad(plain, theirs, grad)
    expected, expected_grad = exact(P, grad)
    assert relative(Q, expected) < 1.2 * relative(plain, expected)
    assert relative(of_P, expected_grad) < 1.2 * relative(of_theirs, expected_grad)


def test_what_is_nearly_rank_deficient_takes_qr_by_itself(decomposed: list) -> None:
    good = [conditioned(64, 4, 2.0, seed) for seed in range(3)]
    doubled = good[0].clone()
    doubled[:, 3] = doubled[:, 1]
    poor = {
        "poor": conditioned(64, 4, 3 * LARGEST_CONDITION, 5),
        "twice the same column": doubled,
        "zeros": torch.zeros(64, 4),
        "too small for squares": 1e-25 * good[1],
        "too large": 1e25 * good[2],
    }
    P = torch.stack([good[0], *list(poor.values())[:2], good[1], *list(poor.values())[2:], good[2]])
    Q = orthonormal(P)
    assert decomposed == [(len(poor), 64, 4)]
    assert torch.isfinite(Q).all()
    plain, R = torch.linalg.qr(P)
    plain = plain * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)
    assert (Q - plain).abs().max() < 2e-7
    assert torch.equal(Q[[1, 2, 4, 5, 6]], plain[[1, 2, 4, 5, 6]])

    # The gradient of the others is theirs alone.
    P, grad = P[:4].clone(), torch.randn(4, 64, 4, generator=generator(3))
    P[2] = poor["poor"]
    _, of_P = ours(P, grad)
    assert relative(of_P, exact(P, grad)[1]) < 1e-3
    assert relative(of_P[[0, 3]], exact(P[[0, 3]], grad[[0, 3]])[1]) < 1e-6
    P[1] = doubled  # has no gradient of its own
    assert relative(ours(P, grad)[1][[0, 3]], exact(P[[0, 3]], grad[[0, 3]])[1]) < 1e-6


def test_all_of_them_poor(decomposed: list) -> None:
    P = torch.zeros(2, 12, 3)
    assert torch.isfinite(orthonormal(P)).all()
    assert decomposed == [(2, 12, 3)]


def test_wider_than_high_takes_qr(decomposed: list) -> None:
    P = torch.randn(2, 3, 5, generator=generator())
    assert orthonormal(P).shape == (2, 3, 3)
    assert decomposed == [(2, 3, 5)]


def test_the_same_bits_again() -> None:
    P = torch.stack([conditioned(320, 8, 3.0, seed) for seed in range(4)])
    grad = torch.randn(P.shape, generator=generator(1))
    for one, other in zip(ours(P, grad), ours(P, grad), strict=True):
        assert torch.equal(one, other)


def test_rough_products_are_not_used(decomposed: list) -> None:
    """Products in TF32 or bf16 would make Q orthonormal to 1e-3 only; autocast is kept out."""
    P = conditioned(320, 8, 3.0)[None]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert (orthonormal(P) - exact(P, P)[0]).abs().max() < 1e-6
        assert len(decomposed) == 1
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", torch.bfloat16):
        Q, of_P = ours(P, torch.ones_like(P))
    expected, expected_grad = exact(P, torch.ones_like(P))
    assert (Q - expected).abs().max() < 1.5e-7
    assert relative(of_P, expected_grad) < 1e-6
    assert len(decomposed) == 1


def test_many_at_once_are_the_same_as_each_by_itself() -> None:
    shapes = [(24, 4), (24, 4), (40, 8), (24, 4), (3, 5)]
    matrices = [torch.randn(shape, generator=generator(seed)) for seed, shape in enumerate(shapes)]
    for P, (Q, right) in zip(matrices, project_all(matrices, "qr"), strict=True):
        assert right is Q
        assert (Q - project(P, "qr")[0]).abs().max() < 1.5e-7


def test_what_is_slow_on_the_host_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "_warned", set())
    monkeypatch.setattr(host, "_TRUSTED", ("cuda",))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            outputs = host.on_host(lambda a, n: ({"a": a + n}, [a, n], (n,)), torch.ones(2), 3, slow="This thing")
        host.on_host(torch.exp, torch.ones(2))
    assert caplog.messages == ["This thing: computed on the CPU, because cpu cannot do it. This takes longer."]
    assert outputs[0]["a"].tolist() == [4, 4]
    assert outputs[1][1] == 3
    assert outputs[2] == (3,)
