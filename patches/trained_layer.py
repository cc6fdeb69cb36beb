"""A layer of this pack's methods that ComfyUI's own Train LoRA node trains: see core_training.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy.weight_adapter.base import WeightAdapterTrainBase
from torch import Tensor, nn

from ..deft_ops import methods
from ..deft_ops.layer_ops import op_of
from ..models.layers import bias_of
from .entries import Entry


class LayerOfTrainLoRA(WeightAdapterTrainBase):
    """One layer in training: its parameters by their suffixes in files. ComfyUI moves, casts and optimises them."""

    def __init__(self, method: methods.Method[Any], params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.method = method
        for name, value in params.items():
            self.register_parameter(name, nn.Parameter(value))

    def factors(self) -> Any:
        """The factors that the parameters mean, differentiable."""
        assert self.method.core_training is not None
        return self.method.core_training.factors(dict(self.named_parameters()))

    def __call__(self, w: Tensor) -> Tensor:
        """The changed weight [out, in, ...], in weight mode."""
        return w + self.method.delta(self.factors(), w).to(w.dtype)

    def bypass_forward(self, org_forward: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The changed output of a linear or convolution layer, in bypass mode."""
        assert self.method.forward is not None
        output = org_forward(x, *args, **kwargs)
        owner = org_forward.__self__
        module = getattr(owner, "module", owner)  # another hook may sit between
        op = op_of(module)
        # The removal acts on W x, and ComfyUI's h(x, y) does not say which part of y is the bias.
        bias = bias_of(module, output, op.channel(output))
        plain = output if bias is None else output - bias
        return output + self.method.forward(self.factors(), op, x, plain).to(output.dtype)

    def passive_memory_usage(self) -> int:
        """The size of the parameters in bytes."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


def to_train(entries: tuple[Entry, ...]) -> LayerOfTrainLoRA:
    """A loaded layer, to be trained on from where it is. Raises ValueError for methods that the node cannot train."""
    ((name, values, *_),) = entries
    method = methods.get(name)
    if method.core_training is None:
        offered = ", ".join(record.title for record in methods.METHODS.values() if record.core_training is not None)
        raise ValueError(f"Train LoRA cannot continue from {name} layers: choose a {offered} or LoRA file.")
    try:
        return LayerOfTrainLoRA(method, method.core_training.params(method.Factors(*values)))
    except ValueError as error:
        raise ValueError(f"Train LoRA cannot continue from this file: {error}.") from error
