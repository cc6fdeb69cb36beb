"""A DEFT or PaRa layer that ComfyUI's own Train LoRA node trains: see core_training.py."""

from __future__ import annotations

from typing import Any

from comfy.weight_adapter.base import WeightAdapterTrainBase
from torch import Tensor, nn

from ..deft_ops import methods
from ..deft_ops.layer_ops import op_of
from ..deft_ops.methods import deft
from ..deft_ops.methods.common import INIT_STD
from ..deft_ops.projectors import raw_qr
from ..models.layers import bias_of
from .entries import Entry


class TrainedDeft(WeightAdapterTrainBase):
    """One layer in training: P [out, r], and R [r, in*] for DEFT. ComfyUI moves, casts and optimises it."""

    def __init__(self, P: Tensor, R: Tensor | None) -> None:
        super().__init__()
        self.deft_P = nn.Parameter(P)
        if R is not None:
            self.deft_R = nn.Parameter(R)

    def factors(self) -> deft.Factors:
        """The factors that the parameters mean, differentiable."""
        return deft.Factors(raw_qr(self.deft_P)[0], None, getattr(self, "deft_R", None))

    def __call__(self, w: Tensor) -> Tensor:
        """The changed weight [out, in, ...], in weight mode."""
        return w + deft.delta(self.factors(), w).to(w.dtype)

    def bypass_forward(self, org_forward: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The changed output of a linear or convolution layer, in bypass mode."""
        output = org_forward(x, *args, **kwargs)
        owner = org_forward.__self__
        module = getattr(owner, "module", owner)  # another hook may sit between
        op = op_of(module)
        # The removal acts on W x, and ComfyUI's h(x, y) does not say which part of y is the bias.
        bias = bias_of(module, output, op.channel(output))
        plain = output if bias is None else output - bias
        return output + deft.forward(self.factors(), op, x, plain).to(output.dtype)

    def passive_memory_usage(self) -> int:
        """The size of the parameters in bytes."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


def to_train(entries: tuple[Entry, ...]) -> TrainedDeft:
    """A loaded DEFT or PaRa layer, to be trained on from where it is. Raises ValueError for other methods."""
    ((name, values, *_),) = entries
    if methods.get(name).Factors is not deft.Factors:
        raise ValueError(f"Train LoRA cannot continue from {name} layers: choose a DEFT, PaRa or LoRA file.")
    factors = deft.Factors(*values)
    if factors.right is not None:
        raise ValueError("Train LoRA cannot continue from this file: its projector is not qr.")
    Q = factors.Q.float()
    # qr(c Q) is Q but for signs; c gives P the size that it has at the start of a training.
    P = Q * (INIT_STD * len(Q) ** 0.5)
    R = None if factors.R is None else raw_qr(P)[1][:, None] * (factors.scale * factors.R.float())
    return TrainedDeft(P, R)
