"""The exact LoRA form of an adapter for one base model, under the names of ComfyUI, kohya's scripts or diffusers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops.extraction import limit_rank, share
from ..deft_ops.files.source import PEFT_HEADER
from ..deft_ops.host import on_host
from ..deft_ops.methods import PLAIN_PAIR
from ..deft_ops.wording import shortened
from ..matching.conversions import converted, remarks
from ..matching.foreign import change_of, is_plain_lora
from ..matching.match import Left, Match, advice, layer_of, left_of, match
from ..models.base_weights import base_weight
from ..models.fingerprint import base_note, fingerprint
from ..models.names import Target, part_of, target_function, target_key, target_slice
from .lora_naming import NAMINGS, LayerPair, Side, Written, named, overlap, peft_record, tensors_of
from .lora_naming import vectors as named_vectors


@dataclass
class ExportReport:
    """The report of an export: LoRA layers by rank, the methods that they came from, and notes for the user."""

    naming: str
    ranks: list[int] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    carried_over: int = 0
    energy: float | None = None
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report as text, one line for each fact, for the report output and the log."""
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.methods.items()))
        lines = [f"{sum(self.methods.values())} layers ({kinds}) exported under {NAMINGS[self.naming]}"]
        if self.ranks:
            low, high = min(self.ranks), max(self.ranks)
            rank = f"rank {low}" if low == high else f"ranks {low} to {high}"
            lines.append(f"{len(self.ranks)} LoRA layers of {rank}")
        if self.carried_over:
            lines.append(f"{self.carried_over} tensors copied unchanged")
        if self.energy is None:
            lines.append("exact: the same change at strength 1, on this base only")
        else:
            lines.append(f"reduced to the rank: {self.energy:.4%} of the change's squared norm is kept")
        return "\n".join(lines + self.notes)


class _Base(Side):
    """A side whose base weights are read, once each, with notes about them."""

    def __init__(self, owner: Any, *, clip: bool) -> None:
        super().__init__(owner, clip=clip)
        self.notes: dict[str, list[str]] = {}
        self._last: tuple[str, Tensor] | None = None

    def weight(self, key: str) -> Tensor:
        """The base weight, float32 on the CPU. Raises ValueError if the base is already patched there."""
        if self.patcher.patches.get(key):
            raise ValueError(
                f"The model is already patched at {key}: connect it before any adapter or LoRA is applied."
            )
        if self._last is None or self._last[0] != key:
            weight, note = base_weight(self.patcher, key)
            if note:
                self.notes.setdefault(note, []).append(key)
            self._last = key, weight.detach().float().cpu()
        return self._last[1]


# ------------------------------------------------------------------------------------------------------------- export


def to_lora(
    adapter: Mapping[str, Tensor], model: Any, clip: Any = None, naming: str = "comfyui", rank: int = 0
) -> adapters.Adapter:
    """The LoRA of `export`, without its report."""
    return export(adapter, model, clip, naming=naming, rank=rank)[0]


def export(
    adapter: Mapping[str, Tensor], model: Any, clip: Any = None, *, naming: str = "comfyui", rank: int = 0
) -> tuple[adapters.Adapter, ExportReport]:
    """The adapter as a plain LoRA under one of NAMINGS, exact for this MODEL (and CLIP), with a report.

    W is part of the result, so it holds for this base only. DEFT and PaRa keep their rank; methods that change a weight
    as a whole (SVDiff, DoRA, OFT, LoHa, LoKr, ...) become a LoRA of full rank, unless `rank` limits it (0: it does
    not). Under ComfyUI's and kohya's names, layers that mean slices of one fused weight become one LoRA of their
    summed rank, and changes of vectors a `.diff`; under diffusers' names a fused weight becomes a LoRA for each part.

    Raises:
        ValueError: an unknown naming; a base that is already patched; a layer that is not in the base, is of another
            size or has no name in this naming; a change that a LoRA of this naming cannot hold.
    """
    if naming not in NAMINGS:
        raise ValueError(f"Unknown naming {naming!r}: choose one of {', '.join(NAMINGS)}.")
    if rank < 0:
        raise ValueError(f"The rank limit must be 0 (exact) or more, not {rank}.")
    adapter = converted(adapters.as_adapter(adapter))
    report = ExportReport(naming)
    sides = [_Base(model, clip=False)] + ([_Base(clip, clip=True)] if clip is not None else [])
    matches = [match(adapter, side.names, side.shapes, plain_lora=True) for side in sides]
    left = left_of(adapter, matches)
    check_complete(adapter, left)
    result = adapters.Adapter({key: adapter[key] for key in carried(adapter, sides, matches, naming)})
    report.carried_over = len(result)
    written: list[Written] = []
    progress = comfy.utils.ProgressBar(sum(len(matched.layers) + len(matched.foreign) for matched in matches))
    for side, matched in zip(sides, matches, strict=True):
        pairs, vectors = changes(
            side, matched, report, progress, keep_others=not report.carried_over, source=adapters.source_of(adapter)
        )
        written += named(side, pairs, naming)
        result |= named_vectors(side, vectors, naming)
    kept = []
    for layer in written:
        up, down, part, total = limit_rank(layer.up, layer.down, rank or None)
        kept.append((part, total))
        report.ranks.append(up.shape[1])
        result |= tensors_of(layer, up, down, naming)
    report.energy = share(kept) if rank else None
    result.metadata = {
        "method": PLAIN_PAIR.name,
        "base_model": type(model.model).__name__,
        "base_hash": fingerprint(model),
    }
    if report.ranks:
        result.metadata["rank"] = str(max(report.ranks))
    metadata: Mapping[str, str] = getattr(adapter, "metadata", {})
    if "training" in metadata:
        result.metadata["training"] = metadata["training"]
    if naming == "diffusers":
        result.metadata[PEFT_HEADER] = json.dumps(peft_record(written, report.ranks), sort_keys=True)
    report.notes += remarks(adapter) + notes(adapter, model, sides, result)
    if left.tensors:
        report.notes.append(f"{len(left.tensors)} tensors of the file are not read: {shortened(left.tensors, 3)}")
    return result, report


def notes(adapter: Mapping[str, Tensor], model: Any, sides: Iterable[_Base], result: Mapping[str, Tensor]) -> list[str]:
    """Notes for the report: another base, names that ComfyUI's own loader does not read, how base weights were read."""
    lines = [note] if (note := base_note(adapter, model)) else []
    core_names = {name for side in sides for name in side.core}
    strange = sorted({name for name in map(layer_of, result) if name not in core_names})
    if strange:
        lines.append(
            f"{len(strange)} of the names are not read by ComfyUI's own loader, but by this pack's: "
            f"{', '.join(strange[:3])}"
        )
    for side in sides:
        lines += [f"{note} ({len(keys)} weights, such as {keys[0]})" for note, keys in side.notes.items()]
    return lines


def check_complete(adapter: Mapping[str, Tensor], left: Left) -> None:
    """Raise ValueError for layers that have no weight in the base, or one of another size."""
    source = adapters.source_of(adapter)
    if left.misfits:
        raise ValueError(
            f"{len(left.misfits)} layers of {source} do not fit the base: {shortened(left.misfits, 3)}. Connect the "
            "model that the adapter was trained on, or remove these layers."
        )
    if left.layers:
        usual = "Connect the model (and CLIP) that the adapter was trained on."
        raise ValueError(
            f"{len(left.layers)} layers of {source} are not in the base ({shortened(left.layers, 3)}). "
            f"{advice(adapter, usual)}"
        )


# ------------------------------------------------------------------------------------------------- what is to be held


def carried(adapter: Mapping[str, Tensor], sides: list[_Base], matches: list[Match], naming: str) -> list[str]:
    """The keys of what is neither this pack's nor a plain LoRA and can stay as it is.

    That is all of it, or nothing: under ComfyUI's naming, where its own loader reads all of the names and its classes
    compute all of the changes.
    """
    plain = [patch.loaded_keys for matched in matches for patch in matched.foreign.values() if is_plain_lora(patch)]
    used = set().union(*(matched.used for matched in matches))
    candidates = [key for key in adapters.foreign(adapter) if key in used and not any(key in keys for keys in plain)]
    readable = all(any(layer_of(key) in side.core for side in sides) for key in candidates)
    readable = readable and not any(matched.repaired for matched in matches)
    return candidates if naming == "comfyui" and readable else []


def changes(
    side: _Base, matched: Match, report: ExportReport, progress: Any, *, keep_others: bool, source: str
) -> tuple[dict[str, list[LayerPair]], dict[str, Tensor]]:
    """The LoRA pairs of the model's matrices, and the changes of its vectors, both by the model's keys.

    `source` is what messages call the adapter. `keep_others`: what is no plain LoRA of ComfyUI's loader becomes a pair
    as well; otherwise it is skipped.
    """
    pairs: dict[str, list[LayerPair]] = {}
    vectors: dict[str, Tensor] = {}
    for layer in matched.layers:
        _step(progress)
        report.methods[layer.method.name] += 1
        weight = side.weight(target_key(layer.target))
        piece = part_of(weight, layer.target)
        if piece.ndim < 2:
            _add_vector(vectors, layer.target, layer.method.delta(layer.factors, piece), len(weight))
            continue
        _add(pairs, LayerPair(layer.name, layer.target, *layer.method.to_lora(layer.factors, piece)), source)
    for target, patch in matched.foreign.items():
        _step(progress)
        key = target_key(target)
        if not (is_plain_lora(patch) or keep_others):
            continue
        report.methods[getattr(patch, "name", "diff")] += 1
        weight = side.weight(key)
        if weight.ndim < 2:
            change = change_of(patch, part_of(weight, target), key, source=source)
            _add_vector(vectors, target, change, len(weight))
            continue
        if is_plain_lora(patch):
            up, down, alpha = patch.weights[:3]
            scale = 1.0 if alpha is None else float(alpha) / len(down)
            pair = up.flatten(1).float().cpu(), scale * down.flatten(1).float().cpu()
        else:
            pair = whole_change(patch, part_of(weight, target), key, source)
        _add(pairs, LayerPair(key, target, *pair), source)
    return pairs, vectors


def _add_vector(vectors: dict[str, Tensor], target: Target, change: Tensor, size: int) -> None:
    """Add what a target of a vector changes, in the target's order, to the change of the whole vector of this size."""
    key, part, reorder = target_key(target), target_slice(target), target_function(target)
    whole = vectors.setdefault(key, torch.zeros(size))
    (whole if part is None else whole.narrow(*part)).add_(change if reorder is None else reorder(change))


def _step(progress: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
    progress.update(1)


def whole_change(patch: Any, piece: Tensor, key: str, source: str) -> tuple[Tensor, Tensor]:
    """The change that a patch of ComfyUI's makes to a matrix, as a pair of full rank."""
    change = change_of(patch, piece, key, source=source)
    if change.shape != piece.shape:
        raise ValueError(f"{key} gets another shape by {source}, which a LoRA cannot do: use the adapter itself.")
    return on_host(_exact_pair, change.flatten(1))


def _exact_pair(change: Tensor) -> tuple[Tensor, Tensor]:
    U, sigma, Vh = torch.linalg.svd(change.double(), full_matrices=False)
    return (U * sigma).float(), Vh.float()


def _add(pairs: dict[str, list[LayerPair]], change: LayerPair, source: str) -> None:
    layer_pairs = pairs.setdefault(target_key(change.target), [])
    for other in layer_pairs:
        if overlap(other.target, change.target):
            raise ValueError(
                f"Two layers of {source} change the same part of {target_key(change.target)}: {other.name} and "
                f"{change.name}. Their order is not in the adapter: remove one of them."
            )
    layer_pairs.append(change)
