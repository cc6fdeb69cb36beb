"""What an adapter changes of a layer, in the two forms that training knows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .layer_ops import LayerOp


@dataclass(frozen=True)
class LowRank:
    """What is added to y = W x: up (middle * scale down x - right^T y).

    up and right are [out, r], down is [r, in*], middle [r]. A LoRA has no right, PaRa no down; SVDiff alone a middle.
    """

    up: Tensor
    down: Tensor | None = None
    right: Tensor | None = None
    scale: float = 1.0
    middle: Tensor | None = None

    def forward(self, op: LayerOp, x: Tensor, y: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> Tensor:
        """The addition, in the dtype of x. x is the layer's input and y its output without bias."""
        hidden: Tensor | None = None
        if self.right is not None:
            hidden = -removal * op.up(y.to(x.dtype), self.right.to(x).T)
        if self.down is not None:
            injected = (injection * self.scale) * op.down(x, self.down.to(x))
            if self.middle is not None:
                injected = op.scaled(injected, self.middle.to(x))
            hidden = injected if hidden is None else hidden + injected
        assert hidden is not None
        return op.up(hidden, self.up.to(x))


@dataclass(frozen=True)
class WeightChange:
    """What is added to the weight itself [out, in, ...] or [n], and to the bias [out] if that is trained, too."""

    weight: Tensor
    bias: Tensor | None = None


Change = LowRank | WeightChange
