"""Projectors: how DEFT's trainable matrix P becomes the pair (Q, right) of the update Q (s R - right^T W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .host import on_host

PROJECTORS = ("qr", "relu", "ppt", "svd")
# What each is, for the help pages: those above, and those that only files have.
READ_PROJECTORS: dict[str, str] = {
    "qr": "orthonormal, from P's QR decomposition; PEFT's other choice",
    "relu": "P relu(P)^T, PEFT's default",
    "ppt": "P P^T, as in the DEFT repository's SDXL code",
    "svd": "orthonormal, from the left singular vectors of P",
    "tsvd": "the left singular vectors, one side times the singular values; of PaRa in the DEFT repository",
    "eigen": "the left singular vectors, one side times the eigenvalues of P P^T; of PaRa in the DEFT repository",
}

# The largest condition number, as a product of Frobenius norms, that CholeskyQR2 is used for. The first of its passes
# loses about u cond^2 of the orthogonality, u = 6e-8 being float32's rounding: at 1000 it is 0.06, which the second one
# repairs wholly, and at 4000 the Gram matrix is no longer positive. Measured for [320, 8] to [1280, 128] and singular
# values from 1 to 1/1000: Q and its gradient are 2e-7 from float64's, or nearer to them than those of torch's QR.
LARGEST_CONDITION = 1000.0


def raw_qr(P: Tensor) -> tuple[Tensor, Tensor]:
    """The reduced QR of P [..., out, r] in float32: torch's own Q [..., out, k], the signs [..., k] of the diagonal.

    k = min(out, r). `Q * signs` is the factor whose triangular partner has a positive diagonal. PEFT uses Q as
    returned, so its files need the signs.
    """
    return on_host(_raw_qr, P.float(), slow="QR")


def _raw_qr(P: Tensor) -> tuple[Tensor, Tensor]:
    Q, triangular = torch.linalg.qr(P)
    diagonal = triangular.diagonal(dim1=-2, dim2=-1)
    return Q, torch.where(diagonal < 0, -1.0, 1.0).to(Q)


def orthonormal(P: Tensor) -> Tensor:
    """The Q [n, out, k] of the reduced QR of each P [n, out, r], k = min(out, r), float32; the diagonal is positive.

    By CholeskyQR2 (Yamamoto et al. 2015, ETNA 44): L L^T = P^T P, P <- P L^-T, twice. It needs matrix products, on any
    device, and decompositions of r x r matrices, and its backward pass has three products. A P that is nearly
    rank-deficient, or wider than high, takes QR, by itself.
    """
    return orthonormals([P])[0]


def orthonormals(stacks: Sequence[Tensor]) -> list[Tensor]:
    """The `orthonormal` of each. Their conditions are read together: a GPU is waited for once."""
    stacks, exact = [P.float() for P in stacks], _exact_products()
    tried = {place: _CholeskyQR2.apply(P) for place, P in enumerate(stacks) if exact and P.shape[-2] >= P.shape[-1]}
    if not tried:
        return [_signed_qr(P) for P in stacks]
    conditions = [condition for _, condition in tried.values()]
    # What is not a number is not good, either.
    good = (torch.cat(conditions) <= LARGEST_CONDITION).cpu().split([len(condition) for condition in conditions])
    by_place = dict(zip(tried, good, strict=True))
    return [
        _orthonormal(P, tried[place][0], by_place[place]) if place in tried else _signed_qr(P)
        for place, P in enumerate(stacks)
    ]


def _orthonormal(P: Tensor, Q: Tensor, good: Tensor) -> Tensor:
    """Q [n, out, r] of CholeskyQR2, where it is `good` [n]; else that of QR."""
    if good.all():
        return Q
    Q_by_qr = _signed_qr(P[~good])
    if not good.any():
        return Q_by_qr
    # The good matrices once more: the backward pass must not go through the bad ones.
    order = torch.cat([good.nonzero(), (~good).nonzero()]).flatten().argsort()
    return torch.cat([_CholeskyQR2.apply(P[good])[0], Q_by_qr])[order]


def _signed_qr(P: Tensor) -> Tensor:
    Q, signs = raw_qr(P)
    return Q * signs.unsqueeze(-2)


def _exact_products() -> bool:
    """Whether float32 products are exact, not in TF32 or bf16, where Q would be orthonormal to 1e-3 only."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by two interfaces, and differently
        return False


class _CholeskyQR2(torch.autograd.Function):
    """The step from P [n, out, r] to Q and P's conditions [n], on transposes: rows are contiguous as QR leaves Q."""

    @staticmethod
    def forward(ctx: Any, P: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(P.device.type, enabled=False):
            rows = P.mT.contiguous()
            first, condition = on_host(_with_condition, rows @ rows.mT)
            rows = first @ rows
            second = on_host(_inverse, rows @ rows.mT)
            rows = second @ rows
            ctx.save_for_backward(rows, second @ first)
        ctx.mark_non_differentiable(condition)
        ctx.set_materialize_grads(False)  # of the conditions
        return rows.mT, condition

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:
        rows, inverse = ctx.saved_tensors  # Q^T and R^-T
        with torch.autocast(grad.device.type, enabled=False):
            product = rows @ grad
            # dQ = dP R^-1 - Q U, where U is upper triangular and Q^T dQ antisymmetric.
            mirrored = product.triu() + product.triu(1).mT
            # Transposed once more: products of few rows are up to three times as fast as those of few columns.
            of_rows = inverse.mT @ torch.baddbmm(grad.mT, mirrored, rows, alpha=-1)
            return of_rows.mT.contiguous()  # at once, or autograd would copy it for each parameter


def _inverse_factor(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse L^-1 [n, r, r] of L L^T = gram, L, and the status [n] of cholesky_ex: 0 if all is well."""
    factor, info = torch.linalg.cholesky_ex(gram)
    identity = torch.eye(gram.shape[-1], device=gram.device).expand_as(gram)
    return torch.linalg.solve_triangular(factor, identity, upper=False), factor, info


def _inverse(gram: Tensor) -> Tensor:
    return _inverse_factor(gram)[0]


def _with_condition(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse L^-1 and the condition |L| |L^-1| [n], Frobenius norms; infinite where there is no such L."""
    inverse, factor, info = _inverse_factor(gram)
    condition = factor.flatten(1).norm(dim=1) * inverse.flatten(1).norm(dim=1)
    return inverse, condition / (info == 0)  # by 0 where there is no L


def project(P: Tensor, projector: str) -> tuple[Tensor, Tensor]:
    """Turn P [out, r] into (Q, right), each [out, k] float32 and differentiable.

    qr    Q = right = qr(P), positive diagonal of the triangular factor, so qr(Q) = Q; k = min(out, r)
    relu  (P, relu(P)), the projector of PEFT's default
    ppt   (P, P)
    svd   Q = right = left singular vectors of P, signs as torch returns them; k = min(out, r)
    tsvd  (U S, U) of P's SVD
    eigen (U (S^2 + 1e-6), U): the eigenvalues of P P^T + 1e-6 I in P's columns

    Raises ValueError for an unknown projector or a P that is not a matrix.
    """
    if P.ndim != 2:
        raise ValueError(f"P must be a matrix [out, rank], not of shape {list(P.shape)}.")
    P = P.float()
    if projector == "qr":
        Q = orthonormal(P[None])[0]
        return Q, Q
    if projector == "relu":
        return P, torch.relu(P)
    if projector == "ppt":
        return P, P
    if projector == "svd":
        U, _ = on_host(_left_vectors, P, slow="The projector svd")
        return U, U
    if projector in ("tsvd", "eigen"):
        U, S = on_host(_left_vectors, P)
        return U * (S if projector == "tsvd" else S**2 + 1e-6), U
    raise ValueError(f"Unknown projector {projector!r}: choose one of {', '.join(READ_PROJECTORS)}.")


def _left_vectors(P: Tensor) -> tuple[Tensor, Tensor]:
    U, S, _ = torch.linalg.svd(P, full_matrices=False)
    return U, S


def project_all(matrices: Sequence[Tensor], projector: str) -> list[tuple[Tensor, Tensor]]:
    """The `project` of each matrix. Matrices of one shape share an `orthonormal`, which has many small steps."""
    if projector != "qr":
        return [project(P, projector) for P in matrices]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, P in enumerate(matrices):
        groups.setdefault(tuple(P.shape), []).append(place)
    Q_by_place: dict[int, Tensor] = {}
    stacks = orthonormals([torch.stack([matrices[place] for place in places]) for places in groups.values()])
    for places, Q in zip(groups.values(), stacks, strict=True):
        Q_by_place |= zip(places, Q.unbind(), strict=True)
    return [(Q_by_place[place], Q_by_place[place]) for place in range(len(matrices))]
