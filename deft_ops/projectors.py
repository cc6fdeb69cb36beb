"""Projectors: how DEFT's trainable matrix P becomes the pair (Q, right) of the update Q (s R - right^T W)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PROJECTORS = ("qr", "relu", "ppt", "svd")
# Those that only files have: of PaRa in the DEFT repository.
READ_PROJECTORS = (*PROJECTORS, "tsvd", "eigen")


def raw_qr(P: Tensor) -> tuple[Tensor, Tensor]:
    """Reduced QR of P [..., out, r] in float32: Q [..., out, k] as torch gives it, the signs [..., k] of the diagonal.

    k = min(out, r). `Q * signs` is the factor whose triangular partner has a positive diagonal. PEFT uses Q as
    returned, so its files need the signs.
    """
    Q, triangular = torch.linalg.qr(P.float())
    diagonal = triangular.diagonal(dim1=-2, dim2=-1)
    return Q, torch.where(diagonal < 0, -1.0, 1.0).to(Q)


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
        Q, signs = raw_qr(P)
        Q = Q * signs
        return Q, Q
    if projector == "relu":
        return P, torch.relu(P)
    if projector == "ppt":
        return P, P
    if projector == "svd":
        U = torch.linalg.svd(P, full_matrices=False).U
        return U, U
    if projector in ("tsvd", "eigen"):
        U, S, _ = torch.linalg.svd(P, full_matrices=False)
        return U * (S if projector == "tsvd" else S**2 + 1e-6), U
    raise ValueError(f"Unknown projector {projector!r}: choose one of {', '.join(READ_PROJECTORS)}.")


def project_all(matrices: Sequence[Tensor], projector: str) -> list[tuple[Tensor, Tensor]]:
    """`project` of each matrix. Those of one shape share a QR: its backward pass has many small steps."""
    if projector != "qr":
        return [project(P, projector) for P in matrices]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, P in enumerate(matrices):
        groups.setdefault(tuple(P.shape), []).append(place)
    found: dict[int, Tensor] = {}
    for places in groups.values():
        Q, signs = raw_qr(torch.stack([matrices[place] for place in places]))
        found |= zip(places, (Q * signs.unsqueeze(-2)).unbind(), strict=True)
    return [(found[place], found[place]) for place in range(len(matrices))]
