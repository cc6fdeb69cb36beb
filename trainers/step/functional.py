"""Operations of ComfyUI's inference code that have no gradient, replaced by ones of the same values that have one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .at_hand import ordinary

# Parts of PyTorch's error messages about them, where it raises in the forward pass.
MESSAGES = (
    "don't support automatic differentiation",  # out=
    "is a view and is being modified inplace",  # of chunk, split, unbind
    "Inference tensors cannot be saved for backward",
    "Inplace update to inference tensor",
)


def _pieces(value: Tensor, sizes: Iterable[int], dim: int) -> tuple[Tensor, ...]:
    """Views of a tensor along a dimension, each of its own: those that one operation gives cannot be written into."""
    views, start = [], 0
    for size in sizes:
        views.append(value.narrow(dim, start, size))
        start += size
    return tuple(views)


def _chunk(value: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    length = value.shape[dim]
    size = max(1, -(-length // chunks))
    return _pieces(value, [min(size, length - start) for start in range(0, max(length, 1), size)], dim)


def _split(value: Tensor, split_size_or_sections: Any = None, dim: int = 0, **named: Any) -> tuple[Tensor, ...]:
    sizes = named.get("split_size", split_size_or_sections)
    if isinstance(sizes, int):
        length = value.shape[dim]
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    return _pieces(value, sizes, dim)


def _unbind(value: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    return tuple(value.select(dim, place) for place in range(value.shape[dim]))


def _iterate(value: Tensor) -> Any:
    return iter(_unbind(value))


_VIEWS: dict[Any, Callable[..., Any]] = {
    torch.chunk: _chunk,
    Tensor.chunk: _chunk,
    torch.split: _split,
    Tensor.split: _split,
    Tensor.split_with_sizes: _split,
    torch.unbind: _unbind,
    Tensor.unbind: _unbind,
    Tensor.__iter__: _iterate,
}


class Differentiable(TorchFunctionMode):
    """A mode in which these have a gradient: a result written to out=, a change of one of several views, tensors made
    in inference mode.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, so that it has a gradient."""
        kwargs = dict(kwargs or {})
        if function in _VIEWS:
            return _VIEWS[function](*args, **kwargs)
        out = kwargs.pop("out", None)
        if getattr(function, "__name__", "") != "__get__":
            args, kwargs = tree_map_only(Tensor, ordinary, (args, kwargs))
        result = function(*args, **kwargs)
        if out is None:
            return result
        return _written(out, result)  # into the buffer all the same: who gave it may read it


def _written(out: Any, result: Any) -> Any:
    if isinstance(out, (tuple, list)):
        return tuple(_written(one, value) for one, value in zip(out, result, strict=True))
    out = ordinary(out)
    if out.shape != result.shape:
        out.resize_(result.shape)
    return out.copy_(result)
