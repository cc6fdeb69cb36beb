"""This pack's methods as algorithms of ComfyUI's own Train LoRA node.

That node keeps what it trains by parameter names, so the result of DEFT and PaRa has P, not Q: `.deft_P` and `.deft_R`
as PEFT writes them, with PEFT's signs (Q as torch's QR returns it) and a scale of 1. Every loader of this pack takes
Q = qr(P) of it. R starts as Q^T W, which in bf16 is rounded to three digits: choose lora_dtype fp32 where the start is
to be the base.
"""

from __future__ import annotations

import os
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor

from ..deft_ops import methods
from .trained_layer import LayerOfTrainLoRA
from .weight_adapter import DeftWeightAdapter


def algorithm(record: methods.Method[Any], core: methods.CoreTraining[Any]) -> type[DeftWeightAdapter]:
    """The class that ComfyUI's node makes the new layers of a method with."""

    class Algorithm(DeftWeightAdapter):
        """What the node's list has for the method."""

        @classmethod
        def create_train(cls, weight: Tensor, rank: int = 1, alpha: float = 1.0) -> LayerOfTrainLoRA:
            """A new layer. ComfyUI's alpha is always 1 and is not used: DEFT's scale is 1, so that R learns as fast
            as P.

            The numbers come from torch's global generator, as those of ComfyUI's own algorithms do.
            """
            return LayerOfTrainLoRA(record, core.init(weight.detach(), rank, torch.default_generator))

    return Algorithm


ALGORITHMS = {
    record.title: algorithm(record, record.core_training)
    for record in methods.METHODS.values()
    if record.core_training is not None
}


def register_core_training() -> None:
    """Add the methods to the algorithms of Train LoRA; DEFT_REGISTER=0 leaves ComfyUI's list alone."""
    if os.environ.get("DEFT_REGISTER") != "0":
        comfy.weight_adapter.adapter_maps.update(ALGORITHMS)
