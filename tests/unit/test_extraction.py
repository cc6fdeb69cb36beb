"""Low-rank changes from full ones, against numpy's SVD and the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deft_pack.deft_ops import extraction, methods

from ..tools import random, relative

SHAPES = [(24, 40), (40, 24), (32, 32), (12, 6, 3, 3), (40, 4, 3, 3), (1, 8), (8, 1)]


def reference(change: Tensor, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The best approximation of a rank and all singular values, by numpy in float64."""
    U, sigma, Vh = np.linalg.svd(change.flatten(1).double().numpy(), full_matrices=False)
    return (U[:, :rank] * sigma[:rank]) @ Vh[:rank], sigma


def delta(extracted: extraction.Extracted, method: str, weight: Tensor) -> Tensor:
    """What the layer does to a weight, by the method's own formula."""
    module = methods.get(method)
    assert module.claims(extracted.tensors)
    return module.delta(module.from_tensors(extracted.tensors), weight)


@pytest.mark.parametrize("method", extraction.EXTRACTED_METHODS)
@pytest.mark.parametrize("rank", [1, 4, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_change_of_its_rank_and_its_energy(shape: tuple[int, ...], rank: int, method: str) -> None:
    weight = random(*shape)
    tuned = weight + 0.1 * random(*shape, seed=1)
    extracted = extraction.extract(weight, tuned, method, rank)
    best, sigma = reference(tuned.double() - weight.double(), rank)
    assert extracted.rank == min(rank, len(sigma))
    assert relative(delta(extracted, method, weight).flatten(1), torch.from_numpy(best)) < 5e-6
    assert extracted.kept == pytest.approx((sigma[:rank] ** 2).sum(), rel=1e-9)
    assert extracted.total == pytest.approx((sigma**2).sum(), rel=1e-9)
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in extracted.tensors.values())
    again = extraction.extract(weight, tuned, method, rank)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in extracted.tensors.items())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_factors(shape: tuple[int, ...]) -> None:
    """DEFT: Q orthonormal, R = Q^T W', s = 1. LoRA: both factors have the same norms, scale 1."""
    weight = random(*shape)
    tuned = weight + 0.1 * random(*shape, seed=1)
    deft = methods.get("deft").from_tensors(extraction.extract(weight, tuned, "deft", 3).tensors)
    assert deft.right is None
    assert deft.scale == 1
    assert (deft.Q.T @ deft.Q - torch.eye(deft.Q.shape[1])).abs().max() < 1e-6
    assert relative(deft.R, deft.Q.T @ tuned.flatten(1)) < 1e-6
    lora = methods.get("lora").from_tensors(extraction.extract(weight, tuned, "lora", 3).tensors)
    _, sigma = reference(tuned.double() - weight.double(), 3)
    for norms in (lora.up.norm(dim=0), lora.down.norm(dim=1)):
        assert np.allclose(norms.numpy(), np.sqrt(sigma[: len(norms)]), rtol=1e-5)
    assert lora.scale == 1


def test_a_change_that_is_of_low_rank_is_kept_whole() -> None:
    weight = random(48, 64)
    change = random(48, 5, seed=1) @ random(5, 64, seed=2)
    for method in extraction.EXTRACTED_METHODS:
        extracted = extraction.extract(weight, weight + change, method, 5)
        assert extracted.kept / extracted.total > 1 - 1e-12
        assert relative(delta(extracted, method, weight), change) < 1e-6


def test_energy_is_monotone_in_the_rank_and_picks_the_smallest() -> None:
    weight, tuned = random(30, 50), random(30, 50, seed=1)
    _, sigma = reference(tuned - weight, 1)
    shares = (sigma**2).cumsum() / (sigma**2).sum()
    previous = 0.0
    for rank in range(1, 31):
        extracted = extraction.extract(weight, tuned, "lora", rank)
        assert extracted.kept / extracted.total == pytest.approx(shares[rank - 1], rel=1e-6)
        assert extracted.kept > previous
        previous = extracted.kept
    for energy in (0.05, 0.5, 0.9, 1.0):
        expected = int((shares < energy - 1e-9).sum()) + 1
        assert extraction.extract(weight, tuned, "deft", 100, energy).rank == expected
    assert extraction.extract(weight, tuned, "deft", 4, 0.9).rank == 4


def test_what_cannot_be_extracted_is_said() -> None:
    weight = random(6, 4)
    with pytest.raises(ValueError, match="nothing has changed"):
        extraction.extract(weight, weight, "lora", 2)
    with pytest.raises(ValueError, match=r"\[6, 4\] in the base and \[4, 6\]"):
        extraction.extract(weight, weight.T, "lora", 2)
    with pytest.raises(ValueError, match="NaN"):
        extraction.extract(weight, weight * float("nan"), "lora", 2)
    with pytest.raises(ValueError, match="Unknown method 'para'"):
        extraction.extract(weight, weight + 1, "para", 2)
    with pytest.raises(ValueError, match="at least 1"):
        extraction.extract(weight, weight + 1, "lora", 0)
    with pytest.raises(ValueError, match="from 0"):
        extraction.extract(weight, weight + 1, "lora", 1, 1.5)


@pytest.mark.parametrize(("out", "width"), [(20, 30), (30, 20)])
def test_a_pair_of_a_limited_rank(out: int, width: int) -> None:
    up, down = random(out, 12), random(12, width, seed=1)
    product = up @ down
    for rank in (1, 5, 11):
        best, sigma = reference(product.double(), rank)
        cut_up, cut_down, kept, total = extraction.limit_rank(up, down, rank)
        assert cut_up.shape == (out, rank)
        assert cut_down.shape == (rank, width)
        assert relative(cut_up @ cut_down, torch.from_numpy(best)) < 1e-5
        assert kept == pytest.approx((sigma[:rank] ** 2).sum(), rel=1e-5)
        assert total == pytest.approx((sigma**2).sum(), rel=1e-5)
    for limit in (None, 12, 500):
        same = extraction.limit_rank(up, down, limit)
        assert same[0] is up
        assert same[1] is down
        assert same[2] == same[3] == pytest.approx(float(product.double().square().sum()), rel=1e-5)


@pytest.mark.parametrize(("out", "width"), [(6, 9), (9, 6)])
def test_a_pair_of_more_than_full_rank_is_shortened(out: int, width: int) -> None:
    up, down = random(out, 15), random(15, width, seed=1)
    short_up, short_down, kept, total = extraction.limit_rank(up, down)
    assert short_up.shape == (out, 6)
    assert short_down.shape == (6, width)
    assert kept == total
    assert relative(short_up @ short_down, up @ down) < 1e-6


def test_share() -> None:
    assert extraction.share([(1.0, 4.0), (2.0, 2.0)]) == 0.5
    assert extraction.share([]) == 1
