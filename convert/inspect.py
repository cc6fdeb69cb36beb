"""Facts about an adapter, and about its changes of a MODEL and a CLIP."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.weight_adapter
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops import costs, inspection, methods
from ..deft_ops.files import peft_tuners
from ..deft_ops.inspection import Measured
from ..deft_ops.wording import cut, shortened
from ..matching.conversions import converted
from ..matching.foreign import change_of, kind
from ..matching.match import Match, MatchedLayer, layer_names, layer_of, left_of, match
from ..models.base_weights import Shapes, base_weight
from ..models.fingerprint import base_note
from ..models.names import Target, clip_names, model_names, target_function, target_key, target_slice
from ..models.titles import title_of

# The kind of a layer that ComfyUI's own loader reads, by a part of its tensors' keys; the first that matches counts.
_METHOD_BY_PART = {
    **{mark: name for name, method in reversed(methods.METHODS.items()) for mark in method.marks},
    "diff": "diff",
}
# Tensors whose first dimension is the rank.
_RANK_OF = re.compile(r"(lora_down|lora_A|lora\.down|lora_linear_layer\.down|hada_w1_b)")
_MIDDLE = re.compile(r"\.transformer(\.text_model)?\.encoder(?=\.)|_text_model_encoder(?=_)")
# A layer's block is its path to the first run of numbers, with dots (ComfyUI, diffusers) or underscores (kohya).
_BLOCK = re.compile(r"^(.*?[._]\d+(?:[._]\d+)*)(?:[._]|$)")
_PREFIXES = re.compile(r"^(diffusion_model\.|text_encoders\.|unet\.|transformer\.|base_model\.model\.|lora_unet_)+")


@dataclass(frozen=True)
class LayerSummary:
    """One layer: its name in the file, its weight's key (empty without a model), and its measurements.

    `rank` is the file's rank, None if the method has none; `norm` the Frobenius norm of all of the layer's values.
    """

    name: str
    key: str
    method: str
    rank: int | None
    parameters: int
    norm: float
    change: Measured | None = None

    @property
    def block(self) -> str:
        """The block of the layer, as "input_blocks.4.1"."""
        return block_of(self.key or self.name)


@dataclass(frozen=True)
class BlockSummary:
    """The layers of one block together. Norms are those of all layers' values as one vector, ranks are means.

    A value that no layer has is None.
    """

    name: str
    layers: int
    parameters: int
    norm: float
    rank: int | None
    ratio: float | None
    effective_rank: float | None
    stable_rank: float | None
    removed: float | None
    injected: float | None


@dataclass
class Information:
    """The facts about an adapter; with a model or CLIP also its changes there."""

    method: str
    rank: int | None
    parameters: int
    layers: int
    metadata: dict[str, str]
    rows: list[LayerSummary]
    matched: int | None = None
    bases: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warning: str | None = None

    @property
    def changes(self) -> list[tuple[LayerSummary, Measured]]:
        """The layers whose change was measured."""
        return [(row, row.change) for row in self.rows if row.change is not None]

    @property
    def title(self) -> str:
        """The title of the report: method and rank in a few words."""
        rank = f", rank {self.rank}" if self.rank is not None else ""
        return f"{self.method}{rank}"

    def blocks(self) -> list[BlockSummary]:
        """The rows by block, in the order of the rows."""
        groups: dict[str, list[LayerSummary]] = {}
        for row in self.rows:
            groups.setdefault(row.block, []).append(row)
        return [_block(name, rows) for name, rows in groups.items()]

    def text(self) -> str:
        """The report: one line a fact, then a table of the blocks."""
        lines = [f"{self.title}: {self.layers} layers, {self.parameters:,} values"]
        if (record := methods.METHODS.get(self.method)) is not None:
            lines.append(f"method: {record.title}, {record.source}")
        if self.warning:
            lines.append(self.warning)
        if self.bases:
            lines.append(f"matched: {self.matched} weights of {' and '.join(self.bases)}")
        if self.unmatched:
            lines.append(f"unmatched: {len(self.unmatched)} layers: {shortened(self.unmatched)}")
        if self.unused:
            lines.append(f"not used: {len(self.unused)} tensors of matched layers: {shortened(self.unused)}")
        lines += self.notes
        lines += self._numbers()
        lines += ["", *_table(self.blocks())]
        lines += ["", "metadata:", *(f"  {line}" for line in _metadata_lines(self.metadata))]
        return "\n".join(lines)

    def _numbers(self) -> list[str]:
        if not self.changes:
            return []
        rows, changes = zip(*self.changes, strict=True)
        ratios = [change.ratio for change in changes]
        whole = inspection.share(_root(change.norm for change in changes), _root(change.base for change in changes))
        largest = max(range(len(ratios)), key=ratios.__getitem__)
        ranks = [change.effective_rank for change in changes]
        lines = [
            f"|delta W| / |W| at strength 1: {whole:.4g} over these weights, median {statistics.median(ratios):.4g}, "
            f"largest {ratios[largest]:.4g} ({rows[largest].name})",
            f"effective rank: mean {statistics.mean(ranks):.2f}, {min(ranks):.2f} to {max(ranks):.2f}",
        ]
        if not any(ratios):
            lines.append("WARNING: the adapter changes nothing.")
        errors = [change.orthonormality for change in changes if change.orthonormality is not None]
        overlaps = [change.overlap for change in changes if change.overlap is not None and change.injected]
        if errors:
            lines.append(f"Q: the largest entry of |Q^T Q - I| is {max(errors):.2g}")
        if overlaps:
            lines.append(
                f"overlap: the injected part's cosine with the removed one is {statistics.median(overlaps):.3f} "
                f"(median), {min(overlaps):.3f} to {max(overlaps):.3f}"
            )
        return lines


def inspect(
    adapter: Mapping[str, Tensor],
    model: Any = None,
    clip: Any = None,
    *,
    source: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Information:
    """The facts about an adapter, and about its changes of a MODEL and a CLIP (either may be None).

    The numbers are those of the base's own weights, whatever other patches the model carries. `progress` is called with
    the layers done and all layers.

    Raises:
        ValueError: a damaged adapter, or two layers of it mean the same weight.
    """
    source = source or adapters.source_of(adapter)
    adapter = adapters.as_adapter(adapter)
    adapters.validate(adapter, source[:1].upper() + source[1:])
    adapter = converted(adapter)
    names, metadata = layer_names(adapter), dict(getattr(adapter, "metadata", {}))
    if (cost := getattr(adapter, "cost", None)) is not None:
        metadata[costs.COST_KEY] = cost.text()
    info = Information("", None, adapters.count_parameters(adapter), len(names), metadata, _rows(adapter))
    kinds = {row.method for row in info.rows}
    ranks = [row.rank for row in info.rows if row.rank is not None]
    info.method = kinds.pop() if len(kinds) == 1 else f"mixed ({', '.join(sorted(kinds))})"
    info.rank = max(ranks, default=None)
    if model is None and clip is None:
        info.notes.append("Connect the model for the size of the change, and for what matches.")
        return info
    if model is not None:
        info.warning = base_note(adapter, model)
    _measure(info, adapter, model, clip, progress)
    return info


def block_of(name: str) -> str:
    """The block of a weight's key or a file's layer name: the path to its first numbers, as "input_blocks.4.1"."""
    path = _MIDDLE.sub("", _PREFIXES.sub("", name.removesuffix(".weight")))
    block_match = _BLOCK.match(path)
    return block_match.group(1) if block_match else path.partition(".")[0]


def _measure(
    info: Information,
    adapter: Mapping[str, Tensor],
    model: Any,
    clip: Any,
    progress: Callable[[int, int], None],
) -> None:
    """Replace the rows by those of the weights that match, with their changes."""
    by_name = {row.name: row for row in info.rows}
    sides: list[tuple[Any, Match]] = []
    for owner, names_of in ((model, model_names), (clip, clip_names)):
        if owner is not None:
            patcher = owner if owner is model else owner.patcher
            sides.append((patcher, match(adapter, names_of(owner), Shapes(patcher.model, patcher), plain_lora=True)))
            network = patcher.model if owner is model else owner.cond_stage_model
            info.bases.append(title_of(network))
    total = sum(len(matched.layers) + len(matched.foreign) for _, matched in sides)
    rows, done, notes = [], 0, dict[str, int]()
    for patcher, matched in sides:
        order = {key: index for index, key in enumerate(patcher.model.state_dict())}
        layers: list[MatchedLayer | tuple[Target, Any]] = [*matched.layers, *matched.foreign.items()]
        for layer in sorted(layers, key=lambda layer: order[_key(layer)]):
            comfy.model_management.throw_exception_if_processing_interrupted()
            key = _key(layer)
            weight, note = base_weight(patcher, key)
            if note:
                notes[note] = notes.get(note, 0) + 1
            rows.append(
                _own_row(layer, weight, by_name[layer.name])
                if isinstance(layer, MatchedLayer)
                else _foreign_row(*layer, weight, adapter)
            )
            done += 1
            progress(done, total)
        patched = len({_key(layer) for layer in layers} & set(patcher.patches))
        if patched:
            info.notes.append(
                f"{title_of(patcher.model)} has other patches on {patched} of these weights: the numbers are "
                "for the base without them."
            )
    info.matched = len(rows)
    info.rows = rows or info.rows
    left = left_of(adapter, [matched for _, matched in sides])
    info.unmatched, info.unused = left.layers + left.misfits, left.tensors
    info.notes += [f"{note} ({count} weights)" if count > 1 else note for note, count in notes.items()]


def _key(layer: MatchedLayer | tuple[Target, Any]) -> str:
    return target_key(layer.target if isinstance(layer, MatchedLayer) else layer[0])


def _rows(adapter: Mapping[str, Tensor]) -> list[LayerSummary]:
    """A row for each layer, from the file alone, in natural order."""
    by_layer = adapters.parsed(adapter)
    rows = []
    for name, layer in by_layer.layers.items():
        method, group = layer.method, layer.tensors
        rank = method.rank(group) if method.has_rank else None
        rows.append(LayerSummary(name, "", method.name, rank, *_size(group)))
    foreign_layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in by_layer.foreign.items():
        foreign_layers.setdefault(layer_of(key), {})[key] = tensor
    tuners = peft_tuners.names_of(adapter)
    for name, group in foreign_layers.items():
        rows.append(LayerSummary(name, "", tuners.get(name) or _kind_of(group), _rank_of(group), *_size(group)))
    return sorted(rows, key=lambda row: _natural(row.name))


def _natural(name: str) -> list[str | int]:
    """A key for sorting 2 before 10: text and numbers in turn."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def _size(group: Mapping[str, Tensor]) -> tuple[int, float]:
    """The number of values and their norm, without alphas."""
    tensors = [tensor for key, tensor in group.items() if not key.endswith("alpha")]
    return sum(map(Tensor.numel, tensors)), _root(float(tensor.float().norm()) for tensor in tensors)


def _kind_of(keys: Mapping[str, Tensor]) -> str:
    """The method of a layer that ComfyUI's own loader reads, by its tensors' names."""
    return next((name for part, name in _METHOD_BY_PART.items() if any(part in key for key in keys)), "other")


def _rank_of(group: Mapping[str, Tensor]) -> int | None:
    """The rank of a layer that ComfyUI's own loader reads, from a tensor's shape; None if no tensor shows it."""
    return next((tensor.shape[0] for key, tensor in group.items() if tensor.ndim and _RANK_OF.search(key)), None)


def _own_row(layer: MatchedLayer, weight: Tensor, row: LayerSummary) -> LayerSummary:
    part, reorder = target_slice(layer.target), target_function(layer.target)
    piece = weight if part is None else weight.narrow(*part)
    change = inspection.measure(layer.method, layer.factors, piece if reorder is None else reorder(piece))
    return LayerSummary(row.name, target_key(layer.target), row.method, row.rank, row.parameters, row.norm, change)


def _foreign_row(target: Target, patch: Any, weight: Tensor, adapter: Mapping[str, Tensor]) -> LayerSummary:
    """The row of a patch of ComfyUI's own loader: by its low-rank pair if it has one, else as ComfyUI computes it."""
    key, part = target_key(target), target_slice(target)
    piece = weight if part is None else weight.narrow(*part)
    pair = _pair_of(patch)
    if pair is not None:
        change = inspection.of_pair(pair[0].to(weight), pair[1].to(weight), piece)
    else:
        delta = change_of(patch, weight, key, part, target_function(target), adapters.source_of(adapter))
        change = inspection.of_delta(delta if part is None else delta.narrow(*part), piece)
    group = {name: adapter[name] for name in sorted(getattr(patch, "loaded_keys", ())) if name in adapter}
    if not group:  # a difference, which ComfyUI keeps without its name
        group = {key: patch[1][0]}
    name = layer_of(next(iter(group)))
    method = _kind_of(group) if kind(patch) == "lora" else kind(patch)
    return LayerSummary(name, key, method, _rank_of(group), *_size(group), change)


def _pair_of(patch: Any) -> tuple[Tensor, Tensor] | None:
    """The pair up [out, r] and down [r, in*] with the scale, of a plain LoRA patch."""
    if not isinstance(patch, comfy.weight_adapter.LoRAAdapter):
        return None
    up, down, alpha, middle, dora_scale, reshape = patch.weights
    if middle is not None or dora_scale is not None or reshape is not None:
        return None
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    return up.flatten(1).float(), down.flatten(1).float() * scale


def _root(norms: Any) -> float:
    """The norm of a whole, from the norms of its parts."""
    return math.sqrt(sum(norm**2 for norm in norms))


def _block(name: str, rows: list[LayerSummary]) -> BlockSummary:
    changes = [row.change for row in rows if row.change is not None]
    base = _root(change.base for change in changes)
    ranks = [row.rank for row in rows if row.rank is not None]

    def together(part: str) -> float | None:
        shares = [(getattr(change, part), change.base) for change in changes if getattr(change, part) is not None]
        return inspection.share(_root(value * size for value, size in shares), base) if shares else None

    return BlockSummary(
        name,
        len(rows),
        sum(row.parameters for row in rows),
        _root(row.norm for row in rows),
        max(ranks, default=None),
        inspection.share(_root(change.norm for change in changes), base) if changes else None,
        statistics.mean(change.effective_rank for change in changes) if changes else None,
        statistics.mean(change.stable_rank for change in changes) if changes else None,
        together("removed"),
        together("injected"),
    )


# Column heading, attribute of Block, how it is written.
_COLUMNS = (
    ("layers", "layers", "{:d}"),
    ("values", "parameters", "{:,}"),
    ("|values|", "norm", "{:.4g}"),
    ("rank", "rank", "{:d}"),
    ("|delta W|/|W|", "ratio", "{:.4g}"),
    ("effective rank", "effective_rank", "{:.2f}"),
    ("stable rank", "stable_rank", "{:.2f}"),
    ("removed", "removed", "{:.4g}"),
    ("injected", "injected", "{:.4g}"),
)


def _table(blocks: list[BlockSummary]) -> list[str]:
    """The table of the blocks, in aligned columns; a column without any value is skipped."""
    shown = [column for column in _COLUMNS if any(getattr(block, column[1]) is not None for block in blocks)]
    lines = [["block", *(head for head, _, _ in shown)]]
    for block in blocks:
        values = [(getattr(block, name), form) for _, name, form in shown]
        lines.append([block.name, *("" if value is None else form.format(value) for value, form in values)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[text.rjust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    pairs = zip(lines, padded, strict=True)
    return ["  ".join([line[0].ljust(widths[0]), *texts[1:]]).rstrip() for line, texts in pairs]


def _metadata_lines(metadata: Mapping[str, str]) -> list[str]:
    """The metadata as lines "name: value"; settings in JSON as a list, long values cut."""
    lines = []
    for name, value in metadata.items():
        if name == "training":
            value = _settings(value)
        lines.append(f"{name}: {cut(value)}")
    return lines or ["none"]


def _settings(text: str) -> str:
    """Training settings in JSON as a list; the text of another program as it is."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return ", ".join(f"{name} {value}" for name, value in settings.items()) if isinstance(settings, dict) else text
