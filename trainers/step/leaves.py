"""The factors of a step as leaves of autograd, apart from what they are computed of.

A layer hands its factors' gradients to leaves by itself (see `adapted`), which takes less time than autograd's own way
of collecting them; from the factors to the parameters it is one backward pass for all layers. The gradients are the
same bits: autograd, too, has the whole gradient of a factor before it goes on.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


class Leaves:
    """The leaves that stand for factors in the forward pass, since the last `clear`."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.names: dict[type, tuple[str, ...]] = {}  # of a dataclass' fields

    def clear(self) -> None:
        """Forget all leaves."""
        self.pairs = []

    def of(self, factors: Any) -> Any:
        """A layer's factors (a dataclass of tensors and numbers), with a leaf for each that autograd has computed."""
        kind = type(factors)
        if kind not in self.names:
            self.names[kind] = tuple(field.name for field in fields(kind))
        values = [getattr(factors, name) for name in self.names[kind]]
        computed = False
        for place, value in enumerate(values):
            if isinstance(value, Tensor) and not value.is_leaf:
                leaf = value.detach().requires_grad_()
                self.pairs.append((value, leaf))
                values[place] = leaf
                computed = True
        return kind(*values) if computed else factors

    def backward(self, retain_graph: bool = False) -> None:
        """Hand the leaves' gradients on to the parameters."""
        reached = [(factor, leaf) for factor, leaf in self.pairs if leaf.grad is not None]
        if not reached:
            return
        factors, leaves = zip(*reached, strict=True)
        gradients = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(factors, gradients, retain_graph=retain_graph)
