"""The best low-rank approximation of a full change of a weight (Eckart and Young, 1936).

For D = W' - W = U diag(sigma) V^T, the best change of rank r is U_r U_r^T D. As LoRA: up = U_r diag(sqrt(sigma_r)),
down = diag(sqrt(sigma_r)) V_r^T. As DEFT: Q = U_r, R = Q^T W', s = 1, so that Q (R - Q^T W) is the same change.

The singular vectors of the shorter side come from the float64 Gram matrix of D. Next to float32's SVD, on one thread:
singular values right to 1e-13 instead of 5e-7, the change to 2e-7 instead of 3e-5, and 0.3 to 1.2 times the time.
Where a device has no float64, this is done on the CPU.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from .host import on_host
from .methods import METHODS as RECORDS
from .methods.contract import BestPair

EXTRACTED_METHODS = tuple(name for name, record in RECORDS.items() if record.extracted is not None)
_NOTHING = 1e-7  # of the largest singular value: below it are the rounding errors of float32 weights


@dataclass(frozen=True)
class Spectrum:
    """A matrix's squared singular values [k] in float64, largest first, and the vectors [k, k] of its shorter side."""

    squares: Tensor
    vectors: Tensor
    left: bool

    @property
    def total(self) -> float:
        """The squared Frobenius norm."""
        return float(self.squares.sum())

    def kept(self, rank: int) -> float:
        """The squared norm of the best approximation of this rank."""
        return float(self.squares[:rank].sum())


@dataclass(frozen=True)
class Extracted:
    """A layer's file entries by suffix, its rank, the squared norms of what it holds and of the whole change."""

    tensors: dict[str, Tensor]
    rank: int
    kept: float
    total: float


def spectrum(matrix: Tensor) -> Spectrum:
    """The spectrum of a matrix [out, in*] that is not all zeros.

    Raises:
        ValueError: a NaN or an infinity.
    """
    if not torch.isfinite(matrix).all():
        raise ValueError("it holds a NaN or an infinity")
    left = matrix.shape[0] <= matrix.shape[1]
    short = matrix.double() if left else matrix.double().T
    squares, vectors = torch.linalg.eigh(short @ short.T)
    return Spectrum(squares.flip(0).clamp(min=0), vectors.flip(1), left)


def rank_for(squares: Tensor, rank: int, energy: float = 0.0) -> int:
    """The rank to use for these squared singular values, largest first: at most `rank`, at least 1.

    Singular values below 1e-7 of the largest are not counted. `energy`, unless 0: the smallest rank that keeps this
    share of the squared norm. Raises ValueError for a rank below 1 or an energy outside 0 to 1.
    """
    if rank < 1:
        raise ValueError(f"The rank must be at least 1, not {rank}.")
    if not 0 <= energy <= 1:
        raise ValueError(f"The energy must be from 0 (off) to 1, not {energy}.")
    kept_rank = min(rank, int((squares > squares[0] * _NOTHING**2).sum()))
    if energy:
        shares = squares.cumsum(0) / squares.sum()
        kept_rank = min(kept_rank, int((shares < energy - 1e-12).sum()) + 1)
    return max(kept_rank, 1)


def extract(weight: Tensor, tuned: Tensor, method: str, rank: int, energy: float = 0.0) -> Extracted:
    """The change from `weight` to `tuned`, both [out, in, ...], as a layer of `method`, one of EXTRACTED_METHODS.

    For the rank see `rank_for`. Computed in float64, by `on_host`; the entries are float32 on the weights' device.

    Raises:
        ValueError: shapes that differ, no change at all, a NaN or infinity, another method.
    """
    if weight.shape != tuned.shape:
        raise ValueError(f"its shape is {list(weight.shape)} in the base and {list(tuned.shape)} in the tuned model")
    return Extracted(*on_host(_extracted, weight, tuned, method, rank, energy, slow="The best low-rank approximation"))


def _extracted(
    weight: Tensor, tuned: Tensor, method: str, rank: int, energy: float
) -> tuple[dict[str, Tensor], int, float, float]:
    """The fields of an `Extracted`."""
    before, after = weight.flatten(1).double(), tuned.flatten(1).double()
    change = after - before
    change_spectrum = spectrum(change)
    if change_spectrum.total == 0:
        raise ValueError("nothing has changed")
    record = RECORDS.get(method)
    if record is None or record.extracted is None:
        raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(EXTRACTED_METHODS)}.")
    rank = rank_for(change_spectrum.squares, rank, energy)
    up, down = best_pair(change, change_spectrum, rank)
    tensors = record.to_tensors(
        record.extracted(BestPair(up, down, change_spectrum.squares[:rank], change_spectrum.left, after))
    )
    return tensors, rank, change_spectrum.kept(rank), change_spectrum.total


def best_pair(matrix: Tensor, matrix_spectrum: Spectrum, rank: int) -> tuple[Tensor, Tensor]:
    """The pair up [out, rank], down [rank, in*] in float64 whose product is the best approximation of `matrix`.

    The side that `matrix_spectrum` has the vectors of gets unit norms, the other one the singular values.
    """
    vectors = matrix_spectrum.vectors[:, :rank]
    if matrix_spectrum.left:
        return vectors, vectors.T @ matrix.double()
    return matrix.double() @ vectors, vectors.T


def limit_rank(up: Tensor, down: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, float, float]:
    """The best approximation of up [out, r] @ down [r, in*] of at most this rank, float32; None: the product itself.

    Returns up, down and the squared norms of what is kept and of the whole. A pair of a larger rank than out or in*
    becomes one of that rank; any other that is within the limit is returned as it is.
    """
    return on_host(_limit_rank, up, down, rank)


def _limit_rank(up: Tensor, down: Tensor, rank: int | None) -> tuple[Tensor, Tensor, float, float]:
    full = min(up.shape[0], down.shape[1])
    if rank is None or rank >= min(full, up.shape[1]):
        total = float(((up.double().T @ up.double()) * (down.double() @ down.double().T)).sum())
        if up.shape[1] > full:
            product, identity = up @ down, torch.eye(full, dtype=up.dtype, device=up.device)
            up, down = (product, identity) if down.shape[1] == full else (identity, product)
        return up, down, total, total
    Q_up, upper = torch.linalg.qr(up.double())
    Q_down, lower = torch.linalg.qr(down.double().T)
    U, sigma, Vh = torch.linalg.svd(upper @ lower.T)
    squares = sigma.square()
    cut_up, cut_down = (Q_up @ U[:, :rank]) * sigma[:rank], Vh[:rank] @ Q_down.T
    return cut_up.float(), cut_down.float(), float(squares[:rank].sum()), float(squares.sum())


def share(parts: Collection[tuple[float, float]]) -> float:
    """The sum of what is kept over the sum of the whole, of pairs of squared norms; 1 where nothing changed."""
    total = sum(whole for _, whole in parts)
    return sum(kept for kept, _ in parts) / total if total else 1.0
