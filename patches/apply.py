"""Put an adapter onto a MODEL and a CLIP, and say what matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..deft_ops import adapter as adapters
from .matching import Match, layer_names, match
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
    entries = tuple((*item[:4], item[4] * patch[0]) for patch in own for item in patch[1].weights)
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
    found: set[str] = set()
    misfits: list[str] = []
    results: list[Any] = []
    for owner, names_of, strength in ((model, model_names, strength_model), (clip, clip_names, strength_clip)):
        if owner is None:
            results.append(None)
            continue
        patcher = owner if owner is model else owner.patcher
        matched = match(adapter, names_of(owner), shapes_of(patcher))
        found |= matched.found
        misfits += matched.misfits
        patches = patches_of(matched, removal, injection)
        for name in [layer.method.NAME for layer in matched.layers] + [kind(p) for p in matched.foreign.values()]:
            report.methods[name] = report.methods.get(name, 0) + 1
        if strength != 0 and patches:
            patcher = add(patcher, patches, strength, stacking)
            if owner is clip:
                owner = clip.clone()
                owner.patcher = patcher
            else:
                owner = patcher
        results.append(owner)
    report.unmatched = sorted(layer_names(adapter) - found) + misfits
    if not report.matched:
        raise ValueError(no_match(report, model, clip, bool(misfits)))
    return results[0], results[1], report


def shapes_of(patcher: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights of a model patcher by key."""
    return {key: tuple(value.shape) for key, value in patcher.model.state_dict().items()}


def patches_of(matched: Match, removal: float = 1.0, injection: float = 1.0) -> dict[Target, Any]:
    """ComfyUI patches of a match, by target: its own loader's, then this pack's."""
    own = {
        layer.target: DeftWeightAdapter(set(), (entry(layer.method, layer.factors, removal, injection),))
        for layer in matched.layers
    }
    return matched.foreign | own


def kind(patch: Any) -> str:
    """The method of a patch of ComfyUI's own loader: the name of its adapter class, or diff."""
    return getattr(patch, "name", "diff")


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
