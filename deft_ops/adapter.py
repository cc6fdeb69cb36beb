"""The adapter object: a dict of tensors, which is what ComfyUI's LORA_MODEL socket carries, plus metadata."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import methods
from .costs import TrainingCost

# ComfyUI reads these beside lora_up/lora_down; a layer that has one is not a plain LoRA and stays ComfyUI's.
_COMPANIONS = ("lora_mid.weight", "reshape_weight")
_SUFFIXES = frozenset((*methods.SUFFIXES, *_COMPANIONS))
_HALVES = tuple(f".{suffix}" for method in methods.METHODS.values() for suffix in method.halves)
_ENDS = frozenset(suffix.rpartition(".")[2] for suffix in _SUFFIXES if "." in suffix)  # "weight" and the like
# Tensors of ComfyUI's own classes that it computes with as they are: of whole numbers they are damaged.
_FACTOR = re.compile(
    r"(\.(lora_(up|down|mid|[AB])(\.default)?|[ab][12])\.weight|[._]lora(_linear_layer)?\.(up|down)\.weight"
    r"|\.(hada_\w+|lokr_\w+|oft_blocks|dora_scale|diff|diff_b|w_norm|b_norm|set_weight))$"
)


class Adapter(dict[str, Tensor]):
    """Tensors by key "<layer name>.<suffix>", with `metadata` as in a safetensors header (strings only).

    training_seconds: what the training took that has just made it. run: the folder of that run, if it has one.
    cost: what its training has cost, measured by the trainer or read from the file. Neither is in the metadata, which
    is the same for the same training; the cost is an entry of a native file's header.
    spelled: the file's own name of each tensor that has another one here.
    source: the name of the file that it was read from, for messages; empty if it was made here.
    Its layers are kept once they are parsed, see `parsed`.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(tensors or {})
        self.metadata: dict[str, str] = dict(metadata or {})
        self.training_seconds: float | None = None
        self.run: Path | None = None
        self.cost: TrainingCost | None = None
        self.spelled: dict[str, str] = {}
        self.source = ""
        self._parsed: Parsed | None = None

    def __repr__(self) -> str:
        """One line: ComfyUI's Preview as Text would print every tensor of a dict."""
        counts = Counter(layer.method.title for layer in parsed(self).layers.values())
        layers = ", ".join(f"{number} of {title}" for title, number in counts.items()) or "none"
        mib = sum(tensor.numel() * tensor.element_size() for tensor in self.values()) / 2**20
        return f"Adapter (file: {self.source or 'none'}; layers: {layers}; tensors: {len(self)}, {mib:.2f} MiB)"


def source_of(adapter: Mapping[str, Tensor]) -> str:
    """The name of an adapter in messages: that of its file, or "the adapter"."""
    return str(getattr(adapter, "source", "")) or "the adapter"


def spelling(adapter: Mapping[str, Tensor], key: str) -> str:
    """The name that a tensor of the adapter has in its file."""
    spelled: Mapping[str, str] = getattr(adapter, "spelled", {})
    return spelled.get(key, key)


def from_layers(layers: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str] | None = None) -> Adapter:
    """Build an adapter from tensors by layer name and suffix."""
    tensors = {f"{name}.{suffix}": tensor for name, group in layers.items() for suffix, tensor in group.items()}
    return Adapter(tensors, metadata)


def _split_key(key: str) -> tuple[str, str] | None:
    head, _, suffix = key.rpartition(".")
    if suffix in _ENDS:
        head, _, part = head.rpartition(".")
        suffix = f"{part}.{suffix}"
    return (head, suffix) if suffix in _SUFFIXES else None


@dataclass
class ParsedLayer:
    """A layer that a method claims, with its tensors by suffix."""

    method: methods.Method[Any]
    tensors: dict[str, Tensor]

    @cached_property
    def factors(self) -> Any:
        """The method's factors, from the tensors. Raises ValueError, each time, if they do not fit together."""
        return self.method.from_tensors(self.tensors)


@dataclass(frozen=True)
class Parsed:
    """An adapter's tensors by layer: `layers` by name, in file order, and `foreign` by key, which no method claims.

    `tensors` are those that it was made of. Nothing in here is to be changed.
    """

    tensors: dict[str, Tensor]
    layers: dict[str, ParsedLayer]
    foreign: dict[str, Tensor]

    def is_of(self, adapter: Mapping[str, Tensor]) -> bool:
        """Whether the adapter still has these tensors, the same objects under the same keys in the same order."""
        return len(adapter) == len(self.tensors) and all(
            key == other and tensor is same
            for (key, tensor), (other, same) in zip(adapter.items(), self.tensors.items())
        )


def parsed(adapter: Mapping[str, Tensor]) -> Parsed:
    """The adapter by layers. An `Adapter` keeps them until its tensors change, so that reading, checking and
    matching it parse each layer once; for another mapping they are made anew each time.
    """
    kept = adapter._parsed if isinstance(adapter, Adapter) else None
    if kept is not None and kept.is_of(adapter):
        return kept
    groups: dict[str, dict[str, Tensor]] = {}
    unclaimed: dict[str, Tensor] = {}
    for key, tensor in adapter.items():
        parts = _split_key(key)
        if parts is None:
            unclaimed[key] = tensor
        else:
            groups.setdefault(parts[0], {})[parts[1]] = tensor
    claimed = {}
    for name, group in groups.items():
        method = methods.find(group)
        if method is not None:
            claimed[name] = ParsedLayer(method, group)
        else:
            unclaimed |= {f"{name}.{suffix}": tensor for suffix, tensor in group.items()}
    result = Parsed(dict(adapter), claimed, unclaimed)
    if isinstance(adapter, Adapter):
        adapter._parsed = result
    return result


def as_adapter(tensors: Mapping[str, Tensor]) -> Adapter:
    """The adapter itself, or one of these tensors."""
    return tensors if isinstance(tensors, Adapter) else Adapter(tensors)


def layers(adapter: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer name and suffix, for the layers that one of the methods claims, in file order.

    Keys of other formats (any LoRA naming but lora_up / lora_down, LoHa, LoKr, ...) are skipped: see `foreign`.
    """
    return {name: dict(layer.tensors) for name, layer in parsed(adapter).layers.items()}


def foreign(adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that no method claims, keys untouched, for ComfyUI's own loader."""
    return dict(parsed(adapter).foreign)


def with_layers_of_core(adapter: Mapping[str, Tensor]) -> tuple[dict[str, ParsedLayer], dict[str, Tensor]]:
    """The layers that a method knows, those that ComfyUI's own class applies among them, and all other tensors."""
    by_layer = parsed(adapter)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in by_layer.foreign.items():
        if parts := _split_key(key):
            groups.setdefault(parts[0], {})[parts[1]] = tensor
    records = {name: methods.find_of_core(group) for name, group in groups.items()}
    of_core = {name: ParsedLayer(record, groups[name]) for name, record in records.items() if record is not None}
    others = {
        key: tensor
        for key, tensor in by_layer.foreign.items()
        if (parts := _split_key(key)) is None or parts[0] not in of_core
    }
    return by_layer.layers | of_core, others


def count_parameters(adapter: Mapping[str, Tensor]) -> int:
    """The number of values in the adapter, without alphas."""
    return sum(tensor.numel() for key, tensor in adapter.items() if not key.endswith(".alpha"))


def describe(adapter: Mapping[str, Tensor]) -> dict[str, str]:
    """The fields method, rank and alpha, read from the tensors: the largest rank, alpha only if all layers agree.

    method is "mixed" where methods or formats are mixed; the result is empty if no method claims a layer.
    """
    by_layer = parsed(adapter)
    claimed = by_layer.layers.values()
    if not claimed:
        return {}
    names = {layer.method.name for layer in claimed}
    ranks = [layer.method.rank(layer.tensors) for layer in claimed]
    alphas = {float(layer.tensors["alpha"]) if "alpha" in layer.tensors else None for layer in claimed}
    record = {"method": names.pop() if len(names) == 1 and not by_layer.foreign else "mixed", "rank": str(max(ranks))}
    alpha = alphas.pop() if len(alphas) == 1 else None
    return record if alpha is None else {**record, "alpha": f"{alpha:g}"}


def check_values(tensors: Mapping[str, Tensor], source: str = "The adapter") -> float:
    """Raise ValueError, its message starting with `source`: no tensors, complex numbers, a NaN or an infinity.

    Returns the largest sum of a tensor, which is large where its numbers are; infinity where it is not known.
    """
    if not tensors:
        raise ValueError(f"{source} holds no tensors: save or download it again.")
    for key, tensor in tensors.items():
        if tensor.is_complex():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{source} has complex numbers ({kind}) in {key}, which are not supported: save real numbers."
            )
    # A sum meets every value and makes no temporary. It is not finite if a value is not, or if it overflows.
    sums = {key: tensor.sum(dtype=torch.float32) for key, tensor in tensors.items() if _plain(tensor)}
    largest = float(torch.stack([value.cpu() for value in sums.values()]).abs().max()) if sums else math.inf
    if math.isfinite(largest):
        tensors = {key: tensor for key, tensor in tensors.items() if key not in sums}
    else:
        largest = math.inf
    for key, tensor in tensors.items():
        values = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor  # fp8
        if not torch.isfinite(values).all():
            raise ValueError(f"{source} has a NaN or infinity in {key}: it is damaged, use another checkpoint.")
    return math.inf if any(tensor.is_floating_point() for tensor in tensors.values()) else largest


def _plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.itemsize > 1


def check_shapes(adapter: Mapping[str, Tensor], source: str = "The adapter") -> None:
    """Raise ValueError, its message starting with `source`, for the first layer whose tensors do not fit."""
    by_layer = parsed(adapter)
    for name, layer in by_layer.layers.items():
        for suffix, tensor in layer.tensors.items() if not layer.method.any_dtype else ():
            if suffix not in ("alpha", *layer.method.flags) and not tensor.is_floating_point():
                kind, key = str(tensor.dtype).removeprefix("torch."), spelling(adapter, f"{name}.{suffix}")
                raise ValueError(f"{source} has {key} of {kind}, but floating-point numbers are needed.")
        checked_factors(adapter, name, layer, source)
    for key, tensor in by_layer.foreign.items():
        if not tensor.is_floating_point() and _FACTOR.search(key):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{source} has {spelling(adapter, key)} of {kind}, but floating-point numbers are needed.")
    for key in (spelling(adapter, key) for key in by_layer.foreign):
        if key.endswith(_HALVES):
            raise ValueError(f"{source} has {key} without the tensors that belong to it: save or download it again.")


def checked_factors(adapter: Mapping[str, Tensor], name: str, layer: ParsedLayer, source: str) -> Any:
    """The factors of a layer. Raises ValueError, its message starting with `source`, if they do not fit together."""
    try:
        return layer.factors
    except ValueError as error:
        tensors = ", ".join(dict.fromkeys(spelling(adapter, f"{name}.{suffix}") for suffix in layer.tensors))
        raise ValueError(f"{source} does not fit together at layer {name} ({tensors}): {error}.") from error


def validate(adapter: Mapping[str, Tensor], source: str = "The adapter") -> float:
    """Run `check_values` and `check_shapes`; returns what `check_values` does."""
    largest = check_values(adapter, source)
    check_shapes(adapter, source)
    return largest
