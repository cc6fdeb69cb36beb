"""PEFT's other tuners in forms that this pack and ComfyUI compute exactly: DoRA, OFT, LoHa, LoKr.

Checked against `peft/tuners/{lora/dora,oft/layer,loha/layer,lokr/layer}.py` of PEFT 0.21.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Bytes that the rotations of a tensor may take while they are made, beside twelve times its own: one block of 4,096 in
# 16 bits is read, millions of blocks of two numbers are not.
_ROOM = 80 << 20
_COPIES = 4  # of the rotations at a time


class BadTensor(ValueError):
    """The error of a layer's tensor that does not fit: `part` is its name in the layer, the text is the reason."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(reason)
        self.part = part


DORA = {"lora_A.weight": "dora_down", "lora_B.weight": "dora_up", "lora_magnitude_vector": "dora_magnitude"}


def rotation(entries: Tensor, record: Mapping[str, Any]) -> Tensor:
    """The rotations [blocks, k, k] of OFT's entries [blocks, k (k - 1) / 2], so that W' = W diag(rotations).

    The Cayley transform of the skew-symmetric matrices, or its Neumann series (the default since OFTv2), and before
    that COFT's bound on their size, as the record says. Raises BadTensor if the entries are no triangle.
    """
    if entries.ndim != 2 or not len(entries):
        raise BadTensor("oft_R", f"of shape {list(entries.shape)}, but [blocks, k (k - 1) / 2] is needed")
    size = round((1 + (1 + 8 * entries.shape[-1]) ** 0.5) / 2)
    if size < 2 or size * (size - 1) // 2 != entries.shape[1]:
        raise BadTensor("oft_R", f"of shape {list(entries.shape)}, which holds no skew-symmetric blocks")
    if _COPIES * 4 * len(entries) * size * size > _ROOM + 12 * entries.nbytes:
        raise BadTensor("oft_R", f"of shape {list(entries.shape)}, whose rotations need much more memory than the file")
    skew = torch.zeros(len(entries), size, size)
    # In the order of the entries, without their places as numbers, which need four times the memory.
    skew.masked_scatter_(torch.ones(size, size, dtype=torch.bool).triu(1).expand_as(skew), entries.float())
    skew = skew - skew.transpose(1, 2)
    if record.get("coft"):
        bound = float(_given(record, "eps", 6e-5)) / len(entries) ** 0.5
        norms = skew.norm(dim=(1, 2), keepdim=True)
        skew = torch.where(norms <= bound, skew, bound * skew / norms)
    identity = torch.eye(size).expand_as(skew)
    if record.get("use_cayley_neumann", True):
        terms = int(_given(record, "num_cayley_neumann_terms", 5))
        # I + 2 S + 2 S^2 + ... + S^last; PEFT's 3 terms are its 4, and its 2 are I + 2 S. Before PEFT 0.18 the last
        # power had a 2, too.
        last = max(terms - 1, 3) if terms > 2 and not _before_0_18(record) else 0
        turned, power = identity.clone(), identity
        for index in range(1, max(terms, last + 1)):
            power = power @ skew
            turned.add_(power, alpha=1 if index == last else 2)
    else:
        turned = torch.linalg.solve(identity + skew, identity - skew, left=False)
    # PEFT turns the inputs, x R, so the weight is W R^T.
    return turned.transpose(1, 2).contiguous()


def _given(record: Mapping[str, Any], name: str, usual: float) -> float:
    """A field of a record; what is usual where it is missing or null."""
    value = record.get(name)
    return usual if value is None else value


def _before_0_18(record: Mapping[str, Any]) -> bool:
    """Whether PEFT before 0.18, which wrote no version yet, made an OFT whose record has the Neumann series."""
    if "use_cayley_neumann" not in record:
        return False
    version = re.match(r"(\d+)\.(\d+)", str(record.get("peft_version") or "0.0"))
    return version is not None and (int(version[1]), int(version[2])) < (0, 18)


def scaled(group: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """LoHa or LoKr entries with the scale in the first factor and no alpha, which ComfyUI takes as a scale of 1."""
    first = next((part for part in ("hada_w1_a", "lokr_w1", "lokr_w1_a") if part in group), None)
    if first is None:
        return group  # not complete: skipped, and reported
    return group | {first: group[first].float() * scale}


def dora(group: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The three tensors of DoRA under this pack's names; a convolution's magnitude [1, out, 1, 1] becomes [out]."""
    tensors = {name: group[part] for part, name in DORA.items()}
    tensors["dora_magnitude"] = tensors["dora_magnitude"].reshape(-1)
    return tensors | {"alpha": torch.tensor(float(alpha), dtype=torch.float32)}
