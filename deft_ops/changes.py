"""The change of a layer by an adapter, in the forms that training knows: on its activations, or in its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .layer_ops import LayerOp


@dataclass(frozen=True)
class LowRank:
    """An addition of low rank to y = W x: up (middle * scale down x - right^T y).

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
    """An addition to the weight itself [out, in, ...] or [n], and to the bias [out] if that is trained, too."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Kronecker:
    """An addition to y = W x: scale (left kron right) x, by its factors, never as a matrix of the weight's size.

    left is [l, m], right [k, n*] with out = l k and in = m n; or right is None, and right_up [k, r] right_down [r, n*]
    is in its place. (left kron right) x is left X right^T, for x as a matrix X [m, n].
    """

    left: Tensor
    right: Tensor | None = None
    right_up: Tensor | None = None
    right_down: Tensor | None = None
    scale: float = 1.0

    def forward(self, op: LayerOp, x: Tensor, y: Tensor) -> Tensor:
        """The addition, in the dtype of x. x is the layer's input; y is not used."""
        left, spatial = self.left.to(x), op.spatial
        channel = x.ndim - spatial - 1
        before = x.shape[:channel]
        # Each of the m parts of the channels is a picture (or a row) of its own.
        parts = x.reshape(-1, x.shape[channel] // left.shape[1], *x.shape[channel + 1 :])
        right = self.right_down if self.right is None else self.right
        assert right is not None
        hidden = op.down(parts, right.to(x))
        # Before right_up, because there are fewer values to mix.
        mixed = (self.scale * left) @ hidden.reshape(-1, left.shape[1], hidden[0].numel())
        mixed = mixed.reshape(-1, *hidden.shape[1:])
        if self.right_up is not None:
            mixed = op.up(mixed, self.right_up.to(x))
        return mixed.reshape(*before, -1, *mixed.shape[2:])


@dataclass(frozen=True)
class Rescaled:
    """The rows of a weight with a low-rank change in it, with other norms: y' = (1 + surplus) (y + low_rank), y = W x.

    surplus is [out]: a gain less 1, because in bf16 a gain near 1 would be 1.
    """

    low_rank: LowRank
    surplus: Tensor

    def forward(self, op: LayerOp, x: Tensor, y: Tensor) -> Tensor:
        """The addition to y, in the dtype of x. x is the layer's input and y its output without bias."""
        added = self.low_rank.forward(op, x, y)
        return added + self.gain(op, y.to(added) + added)

    def gain(self, op: LayerOp, y: Tensor) -> Tensor:
        """The addition to an output without bias that has the low-rank change in it already."""
        return op.scaled(y, self.surplus.to(y))


@dataclass(frozen=True)
class Rotated:
    """A change that turns outputs, in blocks of k: y' = y + diag(turn_1, ..., turn_b)^T y of y = W x.

    turn is [b, k, k], out = b k: a rotation less the identity, because in bf16 the diagonal of a small one would be 1.
    """

    turn: Tensor

    def forward(self, op: LayerOp, x: Tensor, y: Tensor) -> Tensor:
        """The addition to y, in its dtype. x, the layer's input, is not used."""
        turn, (blocks, size, _) = self.turn.to(y), self.turn.shape
        channel = op.channel(y)
        if channel == y.ndim - 1:
            return torch.einsum("...bn,bnm->...bm", y.unflatten(-1, (blocks, size)), turn).flatten(-2)
        pieces = y.reshape(-1, blocks, size, y.shape[channel + 1 :].numel())
        return (turn.mT @ pieces).reshape(y.shape)


# On activations: each has forward(op, x, y), what is added to the layer's output y = W x without bias.
OnActivations = LowRank | Kronecker | Rescaled | Rotated
Change = OnActivations | WeightChange
