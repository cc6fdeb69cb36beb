"""Put an adapter onto a MODEL and a CLIP, and report what matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops.wording import of_text_encoder, one_line, shortened
from ..matching.conversions import converted, remarks
from ..matching.foreign import kind
from ..matching.match import Match, advice, left_of, match, with_plain_loras
from ..models.base_weights import Shapes
from ..models.fingerprint import base_note
from ..models.names import Target, clip_names, describe, model_names, target_key
from ..models.titles import title_of
from . import activations, overflow, parameters
from .entries import Entry, entry
from .weight_adapter import DeftWeightAdapter, PlacesWeightAdapter, WeightSlice, places

STACKING = ("sequential", "from_base")
MODES = ("weights", "activations")


@dataclass
class ApplyReport:
    """The report of an application: layers by method, and what was skipped.

    `unmatched` are all of it: layers without a weight, single tensors of layers that are applied (`unused`), and layers
    that do not fit the weight of their name (`misfits`).
    """

    source: str
    methods: dict[str, int] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def matched(self) -> int:
        """The number of layers applied."""
        return sum(self.methods.values())

    def text(self) -> str:
        """The report as text, one line for each fact, for the report output and the log."""
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.methods.items()))
        lines = [f"{self.source}: {self.matched} layers applied ({kinds})"]
        explained = {*self.misfits, *self.unused}
        nameless = [name for name in self.unmatched if name not in explained]
        for names, reason in (
            (nameless, "layers skipped, no such weight"),
            (self.misfits, "layers skipped, they do not fit their weight"),
            (self.unused, "tensors not used, of layers that are applied"),
        ):
            if names:
                lines.append(f"{len(names)} {reason}: {shortened(names)}")
        return "\n".join(lines + self.notes)


def add(patcher: Any, patches: Mapping[Target, Any], strength: float, stacking: str) -> Any:
    """A clone of the model patcher with the patches added."""
    patcher = patcher.clone()
    parameters.add_patches(patcher, patches, strength)
    if stacking == "from_base":
        for key in {target_key(target) for target in patches}:
            patcher.patches[key] = summed_from_base(patcher.patches[key])
    return patcher


def summed_from_base(patches: list[tuple]) -> list[tuple]:
    """The patches of one weight with this pack's merged into one that computes every delta from the same weight.

    It goes first, so that what other packs and LoRAs add does not change what is removed. A patch is ComfyUI's tuple
    (strength, adapter, strength of the weight, offset, function).
    """
    of_this_pack = [patch for patch in patches if isinstance(patch[1], DeftWeightAdapter) and patch[2] == 1.0]
    other_patches = [patch for patch in patches if not any(patch is mine for mine in of_this_pack)]
    names: set[str] = set().union(*(patch[1].loaded_keys for patch in of_this_pack))
    entries: dict[WeightSlice, tuple[Entry, ...]] = {}
    for place, items in (pair for patch in of_this_pack for pair in places(patch)):
        entries[place] = entries.get(place, ()) + items
    if len(entries) == 1:
        ((offset, function), items) = next(iter(entries.items()))
        return [(1.0, DeftWeightAdapter(names, items), 1.0, offset, function), *other_patches]
    if entries:
        return [(1.0, PlacesWeightAdapter(names, tuple(entries.items())), 1.0, None, None), *other_patches]
    return other_patches


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
    mode: str = "weights",
    source: str = "",
) -> tuple[Any, Any, ApplyReport]:
    """Apply an adapter to a MODEL and a CLIP (either may be None) and report the matched layers.

    W becomes W + strength * delta(W); `removal` and `injection` weigh the two terms of a DEFT delta. `sequential`
    computes the delta from the weight as patched so far (ComfyUI's way, PaRa's paper), `from_base` from the weight
    before any of this pack's adapters (PEFT's way). The mode `activations` leaves the weights as they are and changes
    what the layers give, see `activations`.

    Raises:
        ValueError: a damaged adapter; an unknown stacking or mode; no layer of the adapter is in the model or the CLIP;
            two layers mean the same weight; a layer that cannot work on activations.
    """
    for value, options, what in ((stacking, STACKING, "stacking"), (mode, MODES, "mode")):
        if value not in options:
            raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(options)}.")
    source = source or adapters.source_of(adapter)
    adapter = adapters.as_adapter(adapter)
    largest = adapters.validate(adapter, source[:1].upper() + source[1:])
    adapter = converted(adapter)
    report = ApplyReport(source)
    matches: list[Match] = []
    results: list[Any] = []
    for owner, names_of, strength in ((model, model_names, strength_model), (clip, clip_names, strength_clip)):
        if owner is None:
            results.append(None)
            continue
        patcher = owner if owner is model else owner.patcher
        # ComfyUI's own LoRA patch has no injection to weigh.
        own_lora = injection != 1 or mode == "activations"
        matched = match(adapter, names_of(owner), Shapes(patcher.model, patcher), plain_lora=own_lora, source=source)
        matched = with_plain_loras(matched) if own_lora else matched
        matches.append(matched)
        for name in [layer.method.name for layer in matched.layers] + [kind(p) for p in matched.foreign.values()]:
            report.methods[name] = report.methods.get(name, 0) + 1
        if strength != 0 and (matched.layers or matched.foreign):
            if mode == "weights":
                patches = patches_of(matched, removal, injection, source)
                patcher = add(patcher, patches, strength, stacking)
                if largest > overflow.USUAL:
                    overflow.check(patcher, patches, strength * max(1.0, abs(removal), abs(injection)), source)
            else:
                patcher = add_activations(patcher, matched, strength, removal, injection, stacking, source)
            if owner is clip:
                owner = clip.clone()
                owner.patcher = patcher
            else:
                owner = patcher
        results.append(owner)
    left = left_of(adapter, matches)
    report.misfits, report.unused, report.unmatched = left.misfits, left.tensors, left.all
    encoders = [name for name in report.unmatched if of_text_encoder(name)] if clip is None else []
    if not report.matched:
        if encoders and len(encoders) == len(report.unmatched):
            raise ValueError(
                f"All layers of {source} are of text encoders ({shortened(encoders, 2)}), but no CLIP is "
                "connected: connect the CLIP."
            )
        usual = "Load the base model that the adapter was trained on."
        message = f"{no_match(report, model, clip, bool(left.misfits))} {advice(adapter, usual)}"
        raise ValueError(one_line(message))
    if encoders:
        report.notes.append(f"{len(encoders)} of the skipped layers are of text encoders: connect the CLIP for them")
    note = None if model is None else base_note(adapter, model)
    report.notes += [note] if note else []
    report.notes += remarks(adapter)
    return results[0], results[1], report


def add_activations(
    patcher: Any, matched: Match, strength: float, removal: float, injection: float, stacking: str, source: str
) -> Any:
    """A clone of the model patcher with the layers on its activations.

    Raises ValueError for patches of ComfyUI's own loader: they need the weights.
    """
    if matched.foreign:
        kinds = ", ".join(sorted({kind(patch) for patch in matched.foreign.values()}))
        raise ValueError(f"Layers of {source} ({kinds}) cannot work on activations: choose weights.")
    return activations.add(patcher, matched.layers, strength, removal=removal, injection=injection, stacking=stacking)


def patches_of(matched: Match, removal: float = 1.0, injection: float = 1.0, source: str = "") -> dict[Target, Any]:
    """The patches of a match for ComfyUI, by target: its own loader's, then this pack's."""
    of_this_pack = {
        layer.target: DeftWeightAdapter(
            {f"{layer.name} of {source}"} if source else set(),  # for messages
            (entry(layer.method, layer.factors, removal, injection),),
        )
        for layer in matched.layers
    }
    return matched.foreign | of_this_pack


def no_match(report: ApplyReport, model: Any, clip: Any, misfits: bool) -> str:
    """The error message for an adapter of which nothing fits: both sides by name."""
    sides = []
    if model is not None:
        examples = describe(dict.fromkeys(native(model)))
        sides.append(f"the model is {title_of(model.model)} with layers such as {examples}")
    if clip is not None:
        sides.append(f"the CLIP has layers such as {describe(clip_names(clip))}")
    reason = "their sizes differ" if misfits else "their layer names differ"
    return (
        f"No layer of {report.source} fits ({reason}): it has {describe(dict.fromkeys(report.unmatched))}; "
        f"{'; '.join(sides)}."
    )


def native(model: Any) -> list[str]:
    """The layer names that ComfyUI itself uses for this MODEL."""
    keys = [key for key in model.model.state_dict() if key.startswith("diffusion_model.")]
    return [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]
