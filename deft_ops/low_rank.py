"""The form that all low-rank methods have on a layer's activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .layer_ops import LayerOp


@dataclass(frozen=True)
class LowRank:
    """What is added to y = W x: up (scale down x - right^T y).

    up and right are [out, r], down is [r, in*]. A LoRA has no right, PaRa no down.
    """

    up: Tensor
    down: Tensor | None = None
    right: Tensor | None = None
    scale: float = 1.0

    def forward(self, op: LayerOp, x: Tensor, y: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> Tensor:
        """The addition, in the dtype of x. x is the layer's input and y its output without bias."""
        hidden: Tensor | None = None
        if self.right is not None:
            hidden = -removal * op.up(y.to(x.dtype), self.right.to(x).T)
        if self.down is not None:
            injected = (injection * self.scale) * op.down(x, self.down.to(x))
            hidden = injected if hidden is None else hidden + injected
        assert hidden is not None
        return op.up(hidden, self.up.to(x))
