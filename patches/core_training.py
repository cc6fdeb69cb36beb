"""DEFT and PaRa as algorithms of ComfyUI's own Train LoRA node.

That node keeps what it trains by parameter names, so its result has P, not Q: `.deft_P` and `.deft_R` as PEFT writes
them, with PEFT's signs (Q as torch's QR returns it) and a scale of 1. Every loader of this pack takes Q = qr(P) of it.
R starts as Q^T W, which in bf16 is rounded to three digits: choose lora_dtype fp32 where the start is to be the base.
"""

from __future__ import annotations

import os
from typing import Any

import comfy.weight_adapter
import torch
from comfy.weight_adapter.base import WeightAdapterTrainBase
from torch import Tensor, nn

from ..deft_ops import methods
from ..deft_ops.layer_ops import op_of
from ..deft_ops.methods import deft, para
from ..deft_ops.methods.common import INIT_STD
from ..deft_ops.projectors import raw_qr
from ..models.layers import bias_of
from .weight_adapter import DeftWeightAdapter


class TrainedDeft(WeightAdapterTrainBase):
    """One layer in training: P [out, r], and R [r, in*] for DEFT. ComfyUI moves, casts and optimises it."""

    def __init__(self, P: Tensor, R: Tensor | None) -> None:
        super().__init__()
        self.deft_P = nn.Parameter(P)
        if R is not None:
            self.deft_R = nn.Parameter(R)

    def factors(self) -> deft.Factors:
        """What the parameters mean, differentiable."""
        return deft.Factors(raw_qr(self.deft_P)[0], None, getattr(self, "deft_R", None))

    def __call__(self, w: Tensor) -> Tensor:
        """Weight mode: the changed weight [out, in, ...]."""
        return w + deft.delta(self.factors(), w).to(w.dtype)

    def bypass_forward(self, org_forward: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Bypass mode: the changed output of a linear or convolution layer."""
        output = org_forward(x, *args, **kwargs)
        owner = org_forward.__self__
        module = getattr(owner, "module", owner)  # another hook may sit between
        op = op_of(module)
        # The removal acts on W x, and ComfyUI's h(x, y) does not say which part of y is the bias.
        bias = bias_of(module, output, op.channel(output))
        plain = output if bias is None else output - bias
        return output + deft.forward(self.factors(), op, x, plain).to(output.dtype)

    def passive_memory_usage(self) -> int:
        """Bytes of the parameters."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


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
    """PaRa: only removes."""

    @classmethod
    def create_train(cls, weight: Tensor, rank: int = 1, alpha: float = 1.0) -> TrainedDeft:
        """A new layer; alpha has no meaning."""
        params = para.init(weight.detach(), rank, para.Settings(), torch.default_generator)
        return TrainedDeft(params["B"].detach(), None)


def to_train(adapter: DeftWeightAdapter) -> TrainedDeft:
    """A loaded DEFT or PaRa layer, to be trained on from where it is. Raises ValueError for other methods."""
    ((name, values, *_),) = adapter.weights
    if methods.get(name).Factors is not deft.Factors:
        raise ValueError(f"Train LoRA cannot go on with {name} layers: choose a DEFT, PaRa or LoRA file.")
    factors = deft.Factors(*values)
    if factors.right is not None:
        raise ValueError("Train LoRA cannot go on with this file: its projector is not qr.")
    Q = factors.Q.float()
    # qr(c Q) is Q but for signs; c gives P the size that it has at the start of a training.
    P = Q * (INIT_STD * len(Q) ** 0.5)
    R = None if factors.R is None else raw_qr(P)[1][:, None] * (factors.scale * factors.R.float())
    return TrainedDeft(P, R)


def register_core_training() -> None:
    """Add DEFT and PaRa to the algorithms of Train LoRA; DEFT_REGISTER=0 leaves ComfyUI's list alone."""
    if os.environ.get("DEFT_REGISTER") != "0":
        comfy.weight_adapter.adapter_maps.update({"DEFT": DeftAlgorithm, "PaRa": ParaAlgorithm})
