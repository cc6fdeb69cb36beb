"""Rotations of OFT (arXiv 2306.07280) and BOFT (2311.06243): made of what files hold, and turned on weights."""

from __future__ import annotations

import torch
from torch import Tensor


def block_size(entries: Tensor) -> int:
    """The block size k of entries [blocks, k (k - 1) / 2]. Raises ValueError if they are no triangles."""
    size = round((1 + (1 + 8 * entries.shape[-1]) ** 0.5) / 2) if entries.ndim == 2 else 0
    if size < 2 or size * (size - 1) // 2 != entries.shape[1]:
        raise ValueError(f"the entries have shape {list(entries.shape)}, but [blocks, k (k - 1) / 2] is needed")
    return size


def skew(entries: Tensor) -> Tensor:
    """The skew-symmetric matrices [blocks, k, k] of the entries [blocks, k (k - 1) / 2] above the diagonal."""
    size = block_size(entries)
    rows, columns = torch.triu_indices(size, size, 1, device=entries.device)
    upper = entries.new_zeros(len(entries), size, size)
    upper[:, rows, columns] = entries
    return upper - upper.mT


def neumann(generator: Tensor) -> Tensor:
    """The series I + 2 S + 2 S^2 + 2 S^3 + S^4 of the Cayley transform of skew-symmetric S [..., k, k], as in OFTv2."""
    square = generator @ generator
    identity = torch.eye(generator.shape[-1], device=generator.device)
    return identity + 2 * (generator + square + square @ generator) + square @ square


def bounded(blocks: Tensor, constraint: float) -> Tensor:
    """Blocks B [..., k, k] whose S = B - B^T has a norm of at most `constraint` over all of them, differentiable."""
    norm = torch.linalg.vector_norm(blocks - blocks.mT)
    return torch.where(norm > constraint, blocks * (constraint / (norm + 1e-8)), blocks)


def cayley(blocks: Tensor, constraint: float) -> Tensor:
    """The rotations (I + S)(I - S)^-1, S = B - B^T, of blocks B [..., k, k]; |S| of all up to `constraint`, 0: any."""
    generator = blocks - blocks.mT
    if constraint > 0:
        norm = torch.linalg.vector_norm(generator)
        generator = torch.where(norm > constraint, generator * (constraint / (norm + 1e-8)), generator)
    identity = torch.eye(generator.shape[-1], device=generator.device)
    return torch.linalg.solve(identity - generator, identity + generator)  # the two commute


def turn_columns(matrix: Tensor, rotation: Tensor) -> Tensor:
    """The product W diag(R_1, ..., R_b) of W [out, in*] and rotations [b, k, k], in* = b k; one block serves all."""
    pieces = matrix.reshape(len(matrix), -1, rotation.shape[1])
    turned = torch.einsum("obi,bij->obj", pieces, rotation.expand(pieces.shape[1], -1, -1))
    return turned.reshape(matrix.shape)


def turn_rows(matrix: Tensor, rotation: Tensor) -> Tensor:
    """The product diag(R_1, ..., R_b)^T W of W [out, in*] and rotations [b, k, k], out = b k."""
    pieces = matrix.reshape(len(rotation), rotation.shape[1], -1)
    return torch.einsum("bnm,bnc->bmc", rotation, pieces).reshape(matrix.shape)


def turn_butterfly(matrix: Tensor, rotation: Tensor) -> Tensor:
    """The weight after BOFT's steps on W [out, in*] with rotations [steps, b, k, k], out = b k.

    Step i takes rows that are 2^i k / 2 apart together, in pairs of groups, and multiplies from the left by R.
    """
    columns, size = matrix.shape[1], rotation.shape[-1]
    for step, blocks in enumerate(rotation):
        apart = 2**step * (size // 2)
        mixed = matrix.reshape(-1, 2, apart, columns).transpose(1, 2).reshape(len(blocks), size, columns)
        turned = blocks @ mixed
        matrix = turned.reshape(-1, apart, 2, columns).transpose(1, 2).reshape(-1, columns)
    return matrix
