"""Patches of ComfyUI's own classes: checks of their sizes, and their changes.

ComfyUI catches what goes wrong in them while it patches, logs it and goes on with the weight as it was. So their sizes
are checked before, and what is logged while a change is computed here is raised.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.weight_adapter as core
import torch
from torch import Tensor

from ..deft_ops.methods.common import fits_matrix
from ..deft_ops.methods.contract import Shape

Slice = tuple[int, int, int]


def kind(patch: Any) -> str:
    """The method of a patch of ComfyUI's own loader: the name of its adapter class, or diff."""
    return getattr(patch, "name", "diff")


def is_plain_lora(patch: Any) -> bool:
    """Whether a patch of ComfyUI's loader is up and down and nothing else."""
    return isinstance(patch, core.LoRAAdapter) and all(part is None for part in patch.weights[3:6])


# ---------------------------------------------------------------------------------------- what ComfyUI cannot compute


def repaired(patch: Any) -> Any:
    """The patch in a form that ComfyUI's classes compute, or the patch itself if they do (or nothing helps).

    LoKr and Tucker LoRA of 1-D and 3-D convolutions get their kernel dimensions; factors of LoHa and LoKr lose those
    that they have where ComfyUI takes matrices.
    """
    if isinstance(patch, core.LoHaAdapter):
        return _plain_loha(patch)
    if isinstance(patch, core.LoKrAdapter):
        return _plain_lokr(patch)
    if isinstance(patch, core.LoRAAdapter):
        up, down, alpha, middle, *rest = patch.weights
        if middle is None or middle.ndim in (2, 4) or _tucker_misfit(middle, up, down):
            return patch
        down = torch.einsum("m n ..., n j -> m j ...", middle.float(), down.flatten(1).float()).contiguous()
        return core.LoRAAdapter(patch.loaded_keys, (up, down, alpha, None, *rest))
    return patch


def _plain_loha(patch: Any) -> Any:
    """The LoHa with factors as matrices; OneTrainer gives those of a convolution its kernel."""
    w1_a, w1_b, alpha, w2_a, w2_b, *rest = patch.weights
    factors = (w1_a, w1_b, w2_a, w2_b)
    if rest[0] is not None or not any(factor.ndim > 2 for factor in factors):
        return patch
    w1_a, w1_b, w2_a, w2_b = (factor.flatten(1) if factor.ndim > 2 else factor for factor in factors)
    return core.LoHaAdapter(patch.loaded_keys, (w1_a, w1_b, alpha, w2_a, w2_b, *rest))


def with_difference(patch: Any, difference: Any, shape: Shape) -> Any:
    """A plain LoRA and a `.diff` of the same weight as one difference, their sum; None for any other two patches.

    ComfyUI's loader has one patch a weight and keeps the difference only.
    """
    if not is_plain_lora(patch) or kind(difference) != "diff" or difference[0] != "diff" or len(difference[1]) > 1:
        return None
    up, down, alpha = patch.weights[:3]
    change = (up.flatten(1).float() @ down.flatten(1).float()) * (1.0 if alpha is None else alpha / len(down))
    return "diff", (change.reshape(shape) + difference[1][0].to(change),)


def _plain_lokr(patch: Any) -> Any:
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, dora = patch.weights
    if (w1 is None and (w1_a is None or w1_b is None)) or (w2 is None and (w2_a is None or w2_b is None)):
        return patch
    if w1 is not None and w1.ndim > 2 and math.prod(w1.shape[2:]) == 1:
        w1 = w1.flatten(1)
    if w2 is None and t2 is None and w2_b.ndim > 2:
        w2_b = w2_b.flatten(1)
    if w2 is not None and w2.ndim in (3, 5) and (w1 if w1 is not None else w1_a).ndim == 2:
        if w1 is None:
            if w1_b.ndim != 2 or w1_a.shape[1] != len(w1_b):
                return patch
            w1 = (1.0 if alpha is None else alpha / len(w1_b)) * (w1_a.float() @ w1_b.float())
            w1_a = w1_b = alpha = None
        w1 = w1.reshape(*w1.shape, *[1] * (w2.ndim - 2))
    if w1 is patch.weights[0] and w2_b is patch.weights[6]:
        return patch
    return core.LoKrAdapter(patch.loaded_keys, (w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, dora))


# ----------------------------------------------------------------------------------------------------------- the sizes


def misfit(patch: Any, shape: Shape) -> str | None:
    """The reason why a patch does not fit a weight (or slice) of this shape, None if it fits. Its values do not matter.

    What ComfyUI would spread over a weight of another size, as torch spreads tensors of size 1, does not fit either.
    OFT of ComfyUI's own class is OFT with more tensors than the method here takes. So is LoKr in Tucker form, at which
    ComfyUI's class fails for most sizes, and LoHa in a Tucker form that is not of 2-D kernels.
    """
    if isinstance(patch, (core.OFTAdapter, core.BOFTAdapter)) or _has_other_core(patch):
        return f"not computed: {kind(patch)} with tensors that no program writes beside it"
    change: Shape | None
    try:
        if isinstance(patch, tuple):
            change = tuple(patch[1][0].shape)
            fits = change == shape or (len(patch[1]) > 1 and patch[1][1].get("pad_weight", False))
        elif (sizes := _SIZES.get(type(patch))) is not None:
            change, whole = sizes(patch.weights, shape)
            fits = _fits(change, whole)
            scale = patch.weights[_DORA[type(patch)]]
            if fits and scale is not None:
                _check_dora(scale, whole)
        else:
            return None
    except ValueError as error:
        return f"does not fit: {error}, this weight is {list(shape)}"
    return None if fits else f"does not fit: made for {list(change)}, this weight is {list(shape)}"


def _has_other_core(patch: Any) -> bool:
    """Whether it is a LoKr with a Tucker core, or a LoHa with cores that are not both of 2-D kernels."""
    if isinstance(patch, core.LoHaAdapter):
        cores = [tensor for tensor in patch.weights[5:7] if tensor is not None]
        return bool(cores) and [tensor.ndim for tensor in cores] != [4, 4]
    return isinstance(patch, core.LoKrAdapter) and patch.weights[7] is not None


def _fits(change: Shape, shape: Shape) -> bool:
    """Whether the shapes agree as matrices and, where both have a kernel, in the kernel."""
    if not change or not fits_matrix(change[0], math.prod(change[1:]), shape):
        return False
    return len(change) < 3 or change[1] == shape[1] and _kernel(change) == _kernel(shape)


def _kernel(shape: Shape) -> list[int]:
    return [size for size in shape[2:] if size != 1]


def _matrix(*tensors: Tensor) -> list[Shape]:
    """The shapes with all dimensions but the first as one, as ComfyUI flattens them."""
    if any(tensor.ndim < 2 for tensor in tensors):
        raise ValueError(f"its tensors are {_listed(*tensors)}")
    return [(len(tensor), math.prod(tensor.shape[1:])) for tensor in tensors]


def _product(left: Tensor, right: Tensor) -> Shape:
    """The shape of the product of two factors. Raises ValueError if they are no matrices or do not fit."""
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != len(right):
        raise ValueError(f"its factors are {_listed(left, right)}")
    return len(left), right.shape[1]


def _listed(*tensors: Tensor) -> str:
    return " and ".join(str(list(tensor.shape)) for tensor in tensors)


def _tucker_misfit(middle: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether [out, m], [m, n, *kernel] and [n, in] do not fit together."""
    return (
        middle.ndim < 3
        or up.ndim < 2
        or down.ndim < 2
        or math.prod(up.shape[2:]) != 1
        or math.prod(down.shape[2:]) != 1
        or tuple(middle.shape[:2]) != (up.shape[1], len(down))
        or len(set(middle.shape[:2])) != 1
    )


def _tucker(middle: Tensor, rows: Tensor, columns: Tensor) -> Shape:
    """The shape of LyCORIS' Tucker form [i, j, *kernel], [i, out], [j, in]."""
    if rows.ndim != 2 or columns.ndim != 2 or tuple(middle.shape[:2]) != (len(rows), len(columns)):
        raise ValueError(f"its factors are {_listed(middle, rows, columns)}")
    return (rows.shape[1], columns.shape[1], *middle.shape[2:])


def _lora(weights: Any, shape: Shape) -> tuple[Shape, Shape]:
    up, down, _, middle, _, reshape = weights
    whole = shape
    if reshape is not None:
        if not isinstance(reshape, list) or not all(isinstance(size, (int, float)) for size in reshape):
            raise ValueError("its reshape_weight is no list of sizes")
        whole = tuple(int(size) for size in reshape)
        if len(whole) != len(shape) or any(new < old for new, old in zip(whole, shape, strict=True)):
            raise ValueError(f"it makes a larger weight of {list(whole)}")
    if middle is None:
        rows, columns = _matrix(up, down)
        if rows[1] != columns[0]:
            raise ValueError(f"its factors are {_listed(up, down)}")
        return (rows[0], columns[1]), whole
    if middle.ndim != 4 or _tucker_misfit(middle, up, down):
        raise ValueError(f"its factors are {_listed(up, middle, down)}")
    return (len(up), down.shape[1], *middle.shape[2:]), whole


def _loha(weights: Any, shape: Shape) -> tuple[Shape, Shape]:
    w1_a, w1_b, _, w2_a, w2_b, t1, t2, _ = weights
    if t1 is None:
        one, two = _product(w1_a, w1_b), _product(w2_a, w2_b)
    else:
        one, two = _tucker(t1, w1_a, w1_b), _tucker(t2, w2_a, w2_b)
    if one != two:
        raise ValueError(f"its two halves are for {list(one)} and {list(two)}")
    return one, shape


def _lokr(weights: Any, shape: Shape) -> tuple[Shape, Shape]:
    w1, w2, _, w1_a, w1_b, w2_a, w2_b, *_ = weights
    for name, whole, parts in (("w1", w1, (w1_a, w1_b)), ("w2", w2, (w2_a, w2_b))):
        if whole is None and any(part is None for part in parts):
            raise ValueError(f"lokr_{name} is missing")
    left = _product(w1_a, w1_b) if w1 is None else tuple(w1.shape)
    right = _product(w2_a, w2_b) if w2 is None else tuple(w2.shape)
    # ComfyUI gives w1 its kernel dimensions for 2-D kernels itself, for others `repaired` has.
    kernel = len(right) - 2 if len(right) in (3, 5) else 0
    if len(right) < 2 or len(left) != 2 + kernel or left[2:] != (1,) * kernel:
        raise ValueError(f"its factors are {list(left)} and {list(right)}")
    return (left[0] * right[0], left[1] * right[1], *right[2:]), shape


def _glora(weights: Any, shape: Shape) -> tuple[Shape, Shape]:
    a1, a2, b1, b2, alpha, _ = weights
    A1, A2, B1, B2 = _matrix(a1, a2, b1, b2)
    if len(shape) < 2:
        return (B1[0], B2[1]), shape
    # ComfyUI's own test for which of LyCORIS' two forms it is.
    old = b2.shape[1] == len(b1) == len(a1) == a2.shape[1]
    new = len(b2) == b1.shape[1] == a1.shape[1] == len(a2)
    if not old and not new and alpha is not None:
        raise ValueError(f"its tensors a1, a2, b1, b2 are {_listed(a1, a2, b1, b2)}")
    old = old and not (new and not (len(a2) == shape[0] == shape[1]))
    left, right = (B2, B1) if old else (B1, B2)
    first, second = (A2, A1) if old else (A1, A2)
    columns = math.prod(shape[1:]) if old else shape[1]
    if left[1] != right[0] or first[1] != second[0]:
        raise ValueError(f"its tensors a1, a2, b1, b2 are {_listed(a1, a2, b1, b2)}")
    if not first[0] == second[1] == columns:
        raise ValueError(f"its a1 and a2 are for {first[0]} columns")
    return (left[0], right[1]), shape


_SIZES: dict[type, Callable[[Any, Shape], tuple[Shape, Shape]]] = {
    core.LoRAAdapter: _lora,
    core.LoHaAdapter: _loha,
    core.LoKrAdapter: _lokr,
    core.GLoRAAdapter: _glora,
}
# How much of a change by the weight itself is clearly one.
_CLEAR = 1e-3
# Where a class has its dora_scale.
_DORA = {core.LoRAAdapter: 4, core.LoHaAdapter: 7, core.LoKrAdapter: 8, core.GLoRAAdapter: 5}


def _check_dora(scale: Tensor, shape: Shape) -> None:
    """Raise ValueError unless a DoRA scale has a number for each row or column, and the weight's dimensions."""
    ones = [1] * (len(shape) - 2)
    if list(scale.shape) not in ([shape[0], 1, *ones], [1, shape[1], *ones]):
        raise ValueError(f"its dora_scale is {list(scale.shape)}")


# ---------------------------------------------------------------------------------------------------------- the change


def change_of(
    patch: Any,
    weight: Tensor,
    key: str,
    part: Slice | None = None,
    reorder: Callable[[Tensor], Tensor] | None = None,
    source: str = "the adapter",
) -> Tensor:
    """The change of a whole weight by ComfyUI's own computation, at strength 1; as large as the weight becomes.

    Raises:
        ValueError: ComfyUI logs that it could not apply the patch, or nothing changes although its tensors are not
            zero.
    """
    changed = _calculated(patch, weight, key, part, reorder, source)
    change = changed - padded(weight, changed.shape)
    if bool(change.any()) or not _active(patch):
        return change
    if not isinstance(patch, core.GLoRAAdapter):
        # What is smaller than the weight's own rounding is no failure: without the weight it is there.
        alone = _calculated(_without_dora(patch), torch.zeros_like(weight), key, part, reorder, source)
        if bool(alone.any()) and alone.abs().amax() <= torch.finfo(weight.dtype).eps * weight.abs().amax():
            return change if _has_dora(patch) else alone
    raise ValueError(
        f"{source[:1].upper()}{source[1:]} changes nothing of {key}, though its {kind(patch)} tensors for it are not "
        "zero: ComfyUI could not compute the change. Remove this layer from the file."
    )


def padded(weight: Tensor, shape: torch.Size) -> Tensor:
    """The weight, or it in a corner of zeros where a patch makes it larger, as ComfyUI does."""
    if weight.shape == shape:
        return weight
    larger = weight.new_zeros(shape)
    larger[tuple(slice(size) for size in weight.shape)] = weight
    return larger


class _Logged(logging.Handler):
    """A log handler that keeps the warnings and errors of this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "root" and record.thread == self._thread:
            self.messages.append(record.getMessage())


def _calculated(
    patch: Any, weight: Tensor, key: str, part: Slice | None, reorder: Callable[[Tensor], Tensor] | None, source: str
) -> Tensor:
    logged, root = _Logged(), logging.getLogger()
    root.addHandler(logged)
    try:
        changed: Tensor = comfy.lora.calculate_weight([(1.0, patch, 1.0, part, reorder)], weight.clone(), key)
    finally:
        root.removeHandler(logged)
    if logged.messages:
        messages = "; ".join(logged.messages)
        raise ValueError(f"ComfyUI could not apply the {kind(patch)} of {source} to {key}: {messages}")
    return changed


def _has_dora(patch: Any) -> bool:
    return type(patch) in _DORA and patch.weights[_DORA[type(patch)]] is not None


def _without_dora(patch: Any) -> Any:
    """The patch without its dora_scale."""
    if not _has_dora(patch):
        return patch
    values = list(patch.weights)
    values[_DORA[type(patch)]] = None
    return type(patch)(patch.loaded_keys, tuple(values))


def _active(patch: Any) -> bool:
    """Whether a patch has to change something: every factor of a product has a value that is not zero.

    What turns the weight or multiplies it has to be well above the weight's rounding.
    """
    if isinstance(patch, tuple):
        return patch[0] == "diff" and bool(patch[1][0].any())
    if isinstance(patch, core.GLoRAAdapter):
        largest = [float(tensor.abs().amax()) for tensor in patch.weights[:4]]
        return patch.weights[4] != 0 and max(largest[0] * largest[1], largest[2] * largest[3]) > _CLEAR
    if not isinstance(patch, (core.LoRAAdapter, core.LoHaAdapter, core.LoKrAdapter)):
        return False
    values = list(patch.weights)
    values[_DORA[type(patch)]] = None
    if isinstance(patch, core.LoRAAdapter):
        values[5] = None
    return all(value is None or bool(torch.as_tensor(value).any()) for value in values)
