"""The size of an adapter's change of one weight, and its number of directions. Norms are Frobenius norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .host import on_host
from .methods.contract import Method, Terms


@dataclass(frozen=True)
class Measured:
    """The change of one weight W at strength 1.

    `norm` is |delta W|, `base` |W|. The last four are of methods that remove and inject: `removed` = |Q right^T W| /
    |W|, `injected` = |s Q R| / |W|, `overlap` the cosine between what is injected and what is removed (1 with equal
    norms: nothing changes), `orthonormality` the largest entry of |Q^T Q - I|.
    """

    norm: float
    base: float
    effective_rank: float
    stable_rank: float
    removed: float | None = None
    injected: float | None = None
    overlap: float | None = None
    orthonormality: float | None = None

    @property
    def ratio(self) -> float:
        """The relative size |delta W| / |W| of the change."""
        return share(self.norm, self.base)


def share(part: float, whole: float) -> float:
    """The ratio part / whole, for a whole of zero 0 or infinity."""
    if whole > 0:
        return part / whole
    return math.inf if part > 0 else 0.0


def effective_rank(sigma: Tensor) -> float:
    """The exp of the entropy of normalised singular values (Roy and Vetterli 2007): 1 to their number; 0 for zeros."""
    sigma = sigma.cpu().double()
    total = float(sigma.sum())
    if total <= 0:
        return 0.0
    return float(torch.special.entr(sigma / total).sum().exp())


def stable_rank(sigma: Tensor) -> float:
    """The stable rank |D|_F^2 / |D|_2^2, from the singular values of D; 0 for zeros."""
    sigma = sigma.cpu().double()
    largest = float(sigma.max()) if len(sigma) else 0.0
    return float((sigma / largest).square().sum()) if largest > 0 else 0.0


def triangle(matrix: Tensor) -> Tensor:
    """The R of the thin QR of a matrix [n, r]: [min(n, r), r]. |matrix @ M| = |R @ M|, and so for inner products."""
    return on_host(_triangle, matrix)


def _triangle(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode="r").R


def singular_values(up: Tensor, down: Tensor) -> Tensor:
    """The singular values of up [out, r] @ down [r, in*], largest first, without forming the product."""
    return on_host(_singular_values, up, down.T)


def _singular_values(up: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.svdvals(_triangle(up) @ _triangle(right).T)


def of_delta(delta: Tensor, weight: Tensor) -> Measured:
    """The measurements of the change delta, of the shape of `weight`."""
    matrix = delta.float()
    matrix = matrix[None] if matrix.ndim == 1 else matrix.flatten(1)
    sigma = on_host(torch.linalg.svdvals, matrix, slow="Singular values of whole changes")
    return _change(sigma, weight)


def of_pair(up: Tensor, down: Tensor, weight: Tensor) -> Measured:
    """The measurements of the change up @ down, of up [out, r] and down [r, in*]."""
    return _change(singular_values(up.float(), down.float()), weight)


def measure(method: Method[Any], factors: Any, weight: Tensor) -> Measured:
    """The measurements of a method's change of a weight [out, in, ...], on the weight's device."""
    if method.terms is not None:
        return _of_terms(method.terms(factors, weight), weight)
    if not method.low_rank:
        return of_delta(method.delta(factors, weight), weight)
    up, down = method.to_lora(factors, weight)
    return of_pair(up, down, weight)


def _of_terms(terms: Terms, weight: Tensor) -> Measured:
    Q, down = terms.up, -terms.removed
    corner, base = triangle(Q), _norm(weight)
    removed = corner @ terms.removed
    injected = torch.zeros_like(removed)
    if terms.injected is not None:
        down, injected = down + terms.injected, corner @ terms.injected
    sizes = _norm(removed), _norm(injected)
    inner = float((removed.cpu().double() * injected.cpu().double()).sum())
    change = _change(on_host(torch.linalg.svdvals, corner @ triangle(down.T).T), weight)
    return Measured(
        change.norm,
        base,
        change.effective_rank,
        change.stable_rank,
        share(sizes[0], base),
        share(sizes[1], base),
        inner / (sizes[0] * sizes[1]) if all(sizes) else 0.0,
        float((Q.T @ Q - torch.eye(Q.shape[1]).to(Q)).abs().max()),
    )


def _change(sigma: Tensor, weight: Tensor) -> Measured:
    return Measured(_norm(sigma), _norm(weight), effective_rank(sigma), stable_rank(sigma))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.float()))
