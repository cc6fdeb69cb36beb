"""Put an adapter onto a MODEL and a CLIP, and say what matched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.weight_adapter
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops import methods
from .names import Target, clip_names, describe, model_names, target_function, target_key, target_slice
from .weight_adapter import DeftWeightAdapter, entry

STACKING = ("sequential", "from_base")


@dataclass
class Report:
    """What an application did: layers by method, and the names that found no weight."""

    source: str
    methods: dict[str, int] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def matched(self) -> int:
        """Number of layers applied."""
        return sum(self.methods.values())

    def text(self) -> str:
        """One line a fact, for the report output and the log."""
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.methods.items()))
        lines = [f"{self.source}: {self.matched} layers applied ({kinds})"]
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} layers left out, no such weight: {', '.join(self.unmatched)}")
        return "\n".join(lines + self.notes)


def fits(rows: int, columns: int | None, shape: tuple[int, ...]) -> bool:
    """Whether a change of [rows, columns] (None: any) belongs to a weight of this shape [out, in, ...]."""
    return rows == shape[0] and columns in (None, math.prod(shape[1:]))


def sliced_shape(shape: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """The shape of a target, given the shape of its whole weight."""
    part = target_slice(target)
    if part is None:
        return shape
    return tuple(part[2] if dim == part[0] else size for dim, size in enumerate(shape))


def own_patches(
    groups: Mapping[str, Mapping[str, Tensor]],
    names: Mapping[str, Target],
    weights: Mapping[str, Any],
    removal: float,
    injection: float,
) -> tuple[dict[Target, DeftWeightAdapter], list[str]]:
    """Patches of the DEFT and PaRa layers that are named here, by target, and what does not fit its weight."""
    patches: dict[Target, DeftWeightAdapter] = {}
    misfits = []
    for name, group in groups.items():
        if name not in names:
            continue
        factors, target = methods.method_of(group).from_tensors(group), names[name]
        shape = sliced_shape(tuple(weights[target_key(target)].shape), target)
        if fits(len(factors.Q), None if factors.R is None else factors.R.shape[1], shape):
            patches[target] = DeftWeightAdapter(set(), (entry(factors, removal, injection),))
        else:
            misfits.append(f"{name} (made for [{factors.Q.shape[0]}, ...], this weight is {list(shape)})")
    return patches, misfits


def foreign_patches(
    tensors: Mapping[str, Tensor], names: Mapping[str, Target], weights: Mapping[str, Any]
) -> tuple[dict[Target, Any], list[str]]:
    """Patches of everything else by ComfyUI's own loader, and the LoRA layers that do not fit their weight.

    ComfyUI itself only logs an error for those, when it samples.
    """
    patches = comfy.lora.load_lora(tensors, names, log_missing=False) if tensors else {}
    misfits = []
    for target, patch in list(patches.items()):
        if isinstance(patch, comfy.weight_adapter.LoRAAdapter):
            up, down, _, middle, _, reshape = patch.weights
            shape = sliced_shape(tuple(weights[target_key(target)].shape), target)
            if middle is None and reshape is None and not fits(len(up), down[0].numel(), shape):
                misfits.append(f"{target_key(target)} (made for [{len(up)}, {down[0].numel()}], is {list(shape)})")
                del patches[target]
    return patches, misfits


def add(patcher: Any, patches: Mapping[Target, Any], strength: float, stacking: str) -> Any:
    """A clone of the model patcher with the patches added."""
    patcher = patcher.clone()
    patcher.add_patches(dict(patches), strength)
    if stacking == "from_base":
        for target in patches:
            sum_from_base(patcher.patches, target)
    return patcher


def sum_from_base(patches: dict[str, list], target: Target) -> None:
    """Merge this pack's adapters of one weight (or slice) into one that computes every delta from the same weight.

    It goes first, so that what other packs and LoRAs add does not change what is removed. A patch is ComfyUI's tuple
    (strength, adapter, strength of the weight, offset, function). Adapters of another slice or row order stay apart.
    """
    key, place = target_key(target), (target_slice(target), target_function(target))
    own = [patch for patch in patches[key] if isinstance(patch[1], DeftWeightAdapter) and tuple(patch[3:5]) == place]
    others = [patch for patch in patches[key] if not any(patch is mine for mine in own)]
    entries = tuple((*item[:6], item[6] * patch[0]) for patch in own for item in patch[1].weights)
    if entries:
        first = own[0]
        patches[key] = [(1.0, DeftWeightAdapter(set(), entries), *first[2:]), *others]


def apply(
    adapter: Mapping[str, Tensor],
    model: Any = None,
    clip: Any = None,
    *,
    strength_model: float = 1.0,
    strength_clip: float = 1.0,
    removal: float = 1.0,
    injection: float = 1.0,
    stacking: str = "sequential",
    source: str = "the adapter",
) -> tuple[Any, Any, Report]:
    """Apply an adapter to a MODEL and a CLIP (either may be None) and report the matched layers.

    W becomes W + strength * delta(W); `removal` and `injection` weigh the two terms of a DEFT delta. `sequential`
    computes the delta from the weight as patched so far (ComfyUI's way, PaRa's paper), `from_base` from the weight
    before any of this pack's adapters (PEFT's way).

    Raises:
        ValueError: a damaged adapter; an unknown stacking; no layer of the adapter is in the model or the CLIP.
    """
    if stacking not in STACKING:
        raise ValueError(f"Unknown stacking {stacking!r}: choose one of {', '.join(STACKING)}.")
    adapters.validate(adapter, source[:1].upper() + source[1:])
    report = Report(source)
    own = {name: group for name, group in adapters.layers(adapter).items() if "deft_Q" in group}
    rest = {key: tensor for key, tensor in adapter.items() if key.rpartition(".")[0] not in own}
    everything: dict[str, Target] = {}
    misfits: list[str] = []
    results: list[Any] = []
    for owner, names_of, strength in ((model, model_names, strength_model), (clip, clip_names, strength_clip)):
        if owner is None:
            results.append(None)
            continue
        names = names_of(owner)
        everything |= names
        patcher = owner if owner is model else owner.patcher
        weights = patcher.model.state_dict()
        mine, wrong = own_patches(own, names, weights, removal, injection)
        foreign, wrong_too = foreign_patches(rest, names, weights)
        misfits += wrong + wrong_too
        for patch in (*mine.values(), *foreign.values()):
            kind = method_name(patch)
            report.methods[kind] = report.methods.get(kind, 0) + 1
        if strength != 0 and (mine or foreign):
            patcher = add(patcher, foreign | mine, strength, stacking)
            if owner is clip:
                owner = clip.clone()
                owner.patcher = patcher
            else:
                owner = patcher
        results.append(owner)
    report.unmatched = (
        sorted(
            {name for name in own if name not in everything}
            | {layer for layer in map(layer_of, rest) if not named(layer, everything)}
        )
        + misfits
    )
    if not report.matched:
        raise ValueError(no_match(report, model, clip, bool(misfits)))
    return results[0], results[1], report


def method_name(patch: Any) -> str:
    """The method of one patch: ours by its entries, ComfyUI's by the name of its adapter class."""
    if isinstance(patch, DeftWeightAdapter):
        return "deft" if patch.weights[0][2] is not None else "para"
    return getattr(patch, "name", "diff")


def layer_of(key: str) -> str:
    """The layer name of a tensor key of any LoRA flavour, for a message."""
    head, _, tail = key.rpartition(".")
    return head.rpartition(".")[0] if tail == "weight" else head


def named(layer: str, names: Mapping[str, Any]) -> bool:
    """Whether the layer, or a part of its path that names a weight, is known."""
    while layer and layer not in names:
        layer = layer.rpartition(".")[0]
    return bool(layer)


def no_match(report: Report, model: Any, clip: Any, misfits: bool) -> str:
    """The sentence for an adapter of which nothing fits: both sides by name."""
    sides = []
    if model is not None:
        sides.append(f"the model is {type(model.model).__name__} with layers such as {describe(native(model))}")
    if clip is not None:
        sides.append(f"the CLIP has layers such as {describe(clip_names(clip))}")
    reason = "their sizes differ" if misfits else "their layer names differ"
    return (
        f"No layer of {report.source} fits ({reason}): it has {describe(dict.fromkeys(report.unmatched))}; "
        f"{'; '.join(sides)}. Load the base model that the adapter was trained on."
    )


def native(model: Any) -> dict[str, Target]:
    """The layer names that ComfyUI itself uses for this MODEL."""
    return {name: key for name, key in model_names(model).items() if name.startswith("diffusion_model.")}
