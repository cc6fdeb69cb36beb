"""The weight and bias of a layer as ordinary tensors, while they lie on the device in the dtype that it computes in.

Nodes run under torch.inference_mode, so a loaded model's weights are inference tensors, which autograd refuses to save;
an ordinary tensor can share their memory. Whether a layer can use its weight as it lies is asked once, not in every
pass: for a small layer the questions take longer than the product.
"""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

from ...models.stored import changes_in_a_pass, is_plain, unpacks

# Weight and bias.
Own = tuple[Tensor, Tensor | None]
# Classes whose forward does no more than what their weight_function, bias_function and casts say.
_PLAIN_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
_FORWARDS = [getattr(owner, kind).forward for owner in (nn, comfy.ops.disable_weight_init) for kind in _PLAIN_LAYERS]


class Function(torch.autograd.Function):
    """A function without a look for the transforms of torch.func, which takes longer than a small layer."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward`, so that it has a gradient."""
        return super(torch.autograd.Function, cls).apply(*args)


def ordinary(value: Tensor) -> Tensor:
    """An inference tensor's values as an ordinary tensor, in the same memory."""
    if not value.is_inference():
        return value
    with torch.inference_mode(False):
        view = torch.empty(0, dtype=value.dtype, device=value.device)
        return view.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())


def computes_plainly(module: nn.Module) -> bool:
    """Whether a layer's forward is the operation of its kind on its weight and bias, by PyTorch's or ComfyUI's code."""
    cast = getattr(type(module), "forward_comfy_cast_weights", None)
    return (
        "forward" not in module.__dict__
        and type(module).forward in _FORWARDS
        and (cast is None or cast.__module__ == comfy.ops.__name__)
        and not unpacks(module)
    )


class AtHand:
    """One layer's weight and bias, looked up again where somebody has put others in their place.

    To be made before the layer gets another forward. `release` lets go of them, so that ComfyUI can move the model.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.plain = computes_plainly(module)
        self.release()

    def release(self) -> None:
        """Forget the tensors until the next pass."""
        self.own: Own | None = None
        self.seen: tuple[Any, Any, int] = (None, None, 0)

    def of(self, x: Tensor) -> Own | None:
        """The weight and bias, if they can be used on x as they lie. None in inference mode, which is a preview's."""
        if torch.is_inference_mode_enabled():
            return None
        if not self.plain:
            return None
        parameters = self.module._parameters
        weight, bias = parameters["weight"], parameters["bias"]
        seen_weight, seen_bias, place = self.seen
        own = self.own
        if weight is not seen_weight or bias is not seen_bias or (own is not None and weight.data_ptr() != place):
            own = self.look(weight, bias)
        if own is None or own[0].dtype != x.dtype or own[0].device != x.device or changes_in_a_pass(self.module):
            return None
        return None if torch.is_autocast_enabled(x.device.type) else own  # which would cast the weight

    def look(self, weight: Any, bias: Any) -> Own | None:
        """Take the tensors that the module holds now."""
        self.own, self.seen = None, (weight, bias, 0)
        alike = bias is None or (is_plain(bias) and (bias.dtype, bias.device) == (weight.dtype, weight.device))
        if is_plain(weight) and alike:
            self.own = ordinary(weight).detach(), None if bias is None else ordinary(bias).detach()
            self.seen = weight, bias, weight.data_ptr()
        return self.own
