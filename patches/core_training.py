"""DEFT and PaRa as algorithms of ComfyUI's own Train LoRA node.

That node keeps what it trains by parameter names, so its result has P, not Q: `.deft_P` and `.deft_R` as PEFT writes
them, with PEFT's signs (Q as torch's QR returns it) and a scale of 1. Every loader of this pack takes Q = qr(P) of it.
R starts as Q^T W, which in bf16 is rounded to three digits: choose lora_dtype fp32 where the start is to be the base.
"""

from __future__ import annotations

import os

import comfy.weight_adapter
import torch
from torch import Tensor

from ..deft_ops.methods import deft, para
from ..deft_ops.projectors import raw_qr
from .trained_layer import TrainedDeft
from .weight_adapter import DeftWeightAdapter


class DeftAlgorithm(DeftWeightAdapter):
    """DEFT with the projector qr, starting as the base."""

    @classmethod
    def create_train(cls, weight: Tensor, rank: int = 1, alpha: float = 1.0) -> TrainedDeft:
        """A new layer. ComfyUI's alpha is always 1 and is not used: the scale is 1, so that R learns as fast as P.

        The numbers come from torch's global generator, as those of ComfyUI's own algorithms do.
        """
        params = deft.init(weight.detach(), rank, deft.Settings(), torch.default_generator)
        P, R = params["P"].detach(), params["R"].detach()
        if P.shape[1] > P.shape[0]:
            P = P[:, : P.shape[0]]
        return TrainedDeft(P, raw_qr(P)[1][:, None] * R)


class ParaAlgorithm(DeftWeightAdapter):
    """PaRa, which only removes."""

    @classmethod
    def create_train(cls, weight: Tensor, rank: int = 1, alpha: float = 1.0) -> TrainedDeft:
        """A new layer; alpha has no meaning."""
        params = para.init(weight.detach(), rank, para.Settings(), torch.default_generator)
        return TrainedDeft(params["B"].detach(), None)


def register_core_training() -> None:
    """Add DEFT and PaRa to the algorithms of Train LoRA; DEFT_REGISTER=0 leaves ComfyUI's list alone."""
    if os.environ.get("DEFT_REGISTER") != "0":
        comfy.weight_adapter.adapter_maps.update({"DEFT": DeftAlgorithm, "PaRa": ParaAlgorithm})
