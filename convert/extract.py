"""A low-rank adapter from the difference of two models: a fine-tune, a merge, or a MODEL with any patches on it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops import modelspec
from ..deft_ops.extraction import EXTRACTED_METHODS, share
from ..deft_ops.extraction import extract as extract_layer
from ..deft_ops.host import on_host, trusted
from ..models.base_weights import base_weight
from ..models.fingerprint import fingerprint
from ..models.stored import belongs_to_storage
from ..models.titles import title_of

_WORST = 5  # layers named in the report


@dataclass
class ExtractReport:
    """The report of an extraction: squared norms, kept and whole, by layer, and the layers that were skipped."""

    method: str
    rank: int
    kept: dict[str, tuple[float, float]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    unchanged: int = 0
    vectors: dict[str, float] = field(default_factory=dict)
    with_vectors: bool = False
    left_out: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def energy(self) -> float:
        """The share of the extracted layers' change, as squared norm, that the adapter holds."""
        return share(self.kept.values())

    @property
    def overall(self) -> float:
        """The share of the change of all weights, the skipped ones too, that the adapter holds, as squared norm."""
        vectors = [(value if self.with_vectors else 0.0, value) for value in self.vectors.values()]
        return share([*self.kept.values(), *vectors, *((0.0, value) for value in self.left_out.values())])

    def text(self) -> str:
        """The report as text, one line for each fact, for the report output and the log."""
        low, high = min(self.ranks.values()), max(self.ranks.values())
        ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
        lines = [
            f"{self.method} of {ranks} from {len(self.kept)} changed layers; {self.unchanged} weights are unchanged",
            f"retained energy: {self.energy:.4%} of these layers' change, {self.overall:.4%} of all that changed",
        ]
        worst = sorted(self.kept, key=lambda name: share([self.kept[name]]))[:_WORST]
        lines.append("least retained: " + ", ".join(f"{name} {share([self.kept[name]]):.2%}" for name in worst))
        whole = sum(total for _, total in self.kept.values()) + sum([*self.vectors.values(), *self.left_out.values()])
        if self.vectors:
            part = sum(self.vectors.values()) / whole
            what = "saved unchanged" if self.with_vectors else "skipped"
            lines.append(f"{len(self.vectors)} biases, norms and other vectors, {part:.4%} of the change: {what}")
        if self.left_out:
            part = sum(self.left_out.values()) / whole
            names = ", ".join(list(self.left_out)[:3])
            lines.append(f"{len(self.left_out)} other changed layers, {part:.4%} of the change, skipped: {names}")
        return "\n".join(lines + self.notes)


class _Pair:
    """The same network twice, base and tuned, with the layer names of ComfyUI."""

    def __init__(self, base: Any, tuned: Any, prefix: str, names: str) -> None:
        self.base, self.tuned, self.prefix, self.names = base, tuned, prefix, names

    def parameters(self) -> list[str]:
        """All parameters but those of a quantised weight's storage, in the network's order.

        Raises ValueError if the two do not have the same.
        """
        first, second = (
            [name for name, _ in patcher.model.named_parameters() if name.startswith(self.prefix)]
            for patcher in (self.base, self.tuned)
        )
        keys = [key for key in second if not belongs_to_storage(key)]
        other = {key for key in first if not belongs_to_storage(key)}
        if strange := sorted(other ^ set(keys)):
            raise ValueError(
                f"The two models have different architectures: {len(strange)} weights are in one of them only "
                f"({', '.join(strange[:3])})."
            )
        return keys

    def name(self, key: str) -> str:
        """The layer name of a weight, or the whole name of another parameter, as ComfyUI's own loader reads it."""
        return self.names + key.removesuffix(".weight")

    def weights(self, key: str, device: torch.device) -> tuple[Tensor, Tensor, list[str]] | None:
        """The base and the tuned weight with their patches, float32, and notes; None where they are the same object."""
        patches = self.base.patches.get(key), self.tuned.patches.get(key)
        if self.base.model is self.tuned.model and not any(patches):
            return None
        before, first = effective(self.base, key, device)
        after, second = effective(self.tuned, key, device)
        return before, after, [note for note in (first, second) if note]


def effective(patcher: Any, key: str, device: torch.device) -> tuple[Tensor, str | None]:
    """A weight with all patches of a MODEL in it, float32, not rounded to the model's precision; a note as base_weight.

    ComfyUI's own function puts the patches in.
    """
    weight, note = base_weight(patcher, key)
    weight = weight.to(device)
    if patches := patcher.patches.get(key):
        weight = comfy.lora.calculate_weight(patches, weight, key)
    return weight, note


def extract(
    base: Any,
    tuned: Any,
    base_clip: Any = None,
    tuned_clip: Any = None,
    *,
    method: str = EXTRACTED_METHODS[0],
    rank: int = 16,
    energy: float = 0.0,
    convolutions: bool = True,
    vectors: bool = False,
    pattern: str = "",
) -> tuple[adapters.Adapter, ExtractReport]:
    """An adapter that turns the MODEL `base` (and CLIP) into `tuned`, as well as a change of low rank can.

    Both count with the patches that are on them: LoRAs, adapters, merges. Each layer gets the best approximation of its
    rank: `rank`, or the smallest that keeps the share `energy` (0: off) of its squared norm if that is less. `pattern`
    is a regular expression of the layers to take. `vectors` adds the changes of biases, norms and other parameters that
    no low-rank adapter holds, as ComfyUI's `.diff` and `.diff_b`; without it they are skipped and counted.

    Raises:
        ValueError: other architectures or sizes, one CLIP without the other, nothing that changed, an unknown method, a
            rank or energy out of range, a pattern that is none, a NaN.
    """
    if method not in EXTRACTED_METHODS:
        raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(EXTRACTED_METHODS)}.")
    if rank < 1 or not 0 <= energy <= 1:
        raise ValueError(f"The rank must be at least 1 and the energy from 0 (off) to 1, not {rank} and {energy}.")
    try:
        keep = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"The layer pattern {pattern!r} is not a regular expression: {error}.") from error
    report = ExtractReport(method, rank, with_vectors=vectors)
    adapter = adapters.Adapter()
    work = [(pair, key) for pair in _pairs(base, tuned, base_clip, tuned_clip, report) for key in pair.parameters()]
    progress = comfy.utils.ProgressBar(len(work))
    device = _device(base)
    if device.type != torch.device(base.load_device).type:
        report.notes.append(f"computed on the CPU, because {torch.device(base.load_device).type} has no float64")
    notes: dict[str, int] = {}
    for pair, key in work:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update(1)
        weights = pair.weights(key, device)
        if weights is None or torch.equal(weights[0], weights[1]):
            report.unchanged += 1
            continue
        before, after, remarks = weights
        for remark in remarks:
            notes[remark] = notes.get(remark, 0) + 1
        name = pair.name(key)
        _check(name, before, after)
        total = on_host(_square, after - before)
        matrix = key.endswith(".weight") and before.ndim > 1
        if not keep.search(name) or (matrix and before.ndim > 2 and not convolutions):
            report.left_out[name] = total
        elif matrix:
            layer = extract_layer(before, after, method, rank, energy)
            adapter.update({f"{name}.{suffix}": tensor.cpu() for suffix, tensor in layer.tensors.items()})
            report.kept[name], report.ranks[name] = (layer.kept, layer.total), layer.rank
        elif (where := vector_name(pair, key)) is None:
            report.left_out[name] = total
        else:
            report.vectors[name] = total
            if vectors:
                adapter[where] = (after - before).cpu().contiguous()
    if not report.kept:
        raise ValueError(_nothing(report))
    report.notes += [f"{note} ({count} weights)" for note, count in notes.items()]
    facts = {"rank": rank, "energy": energy, "retained": round(report.energy, 6), "layers": len(report.kept)}
    adapter.metadata = {
        **adapters.describe(adapter),
        **modelspec.base_fields(modelspec.base_of(base.model)),
        "base_model": type(base.model).__name__,
        "base_hash": fingerprint(base),
        "extraction": json.dumps(facts, sort_keys=True),
    }
    return adapter, report


def _pairs(base: Any, tuned: Any, base_clip: Any, tuned_clip: Any, report: ExtractReport) -> Iterator[_Pair]:
    if type(base.model) is not type(tuned.model):
        raise ValueError(
            f"The models are of different architectures, {title_of(base.model)} (base) and "
            f"{title_of(tuned.model)} (tuned): connect the base that the tuned model was made from."
        )
    if (base_clip is None) != (tuned_clip is None):
        raise ValueError("Connect both CLIPs or none: the difference of text encoders needs the base's, too.")
    pairs = [_Pair(base, tuned, "diffusion_model.", "")]
    if base_clip is not None:
        one, other = type(base_clip.cond_stage_model), type(tuned_clip.cond_stage_model)
        if one.__name__ != other.__name__:  # ComfyUI makes some of these classes anew for each file
            raise ValueError(f"The CLIPs are of different architectures, {one.__name__} (base) and {other.__name__}.")
        pairs.append(_Pair(base_clip.patcher, tuned_clip.patcher, "", "text_encoders."))
    for pair in pairs:
        if pair.base.patches:
            report.notes.append(f"the base has patches at {len(pair.base.patches)} weights: they count as base")
        if getattr(pair.tuned, "injections", None):
            report.notes.append("WARNING: the tuned model has adapters on its activations, which are not extracted")
        yield pair


def _device(patcher: Any) -> torch.device:
    """The device that the model would be sampled on, or the CPU if that device has no float64."""
    device = torch.device(patcher.load_device)
    return device if trusted(device) else torch.device("cpu")


def _square(change: Tensor) -> float:
    return float(change.double().square().sum())


def _check(name: str, before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape:
        raise ValueError(
            f"{name} is of shape {list(before.shape)} in the base and {list(after.shape)} in the tuned model: "
            "exclude it with the pattern, or connect the base that the tuned model was made from."
        )
    for what, weight in (("base", before), ("tuned model", after)):
        if not torch.isfinite(weight).all():
            raise ValueError(f"{name} holds a NaN or an infinity in the {what}: the checkpoint is damaged.")


def vector_name(pair: _Pair, key: str) -> str | None:
    """The key under which ComfyUI's loader adds a difference to a parameter that is no matrix; None if it has none."""
    if key.endswith(".bias"):
        return f"{pair.names}{key.removesuffix('.bias')}.diff_b"
    if key.endswith(".weight") or not pair.names:
        return f"{pair.name(key)}.diff"
    return None


def _nothing(report: ExtractReport) -> str:
    if not report.vectors and not report.left_out:
        return "The two models have the same weights: there is nothing to extract. Connect the tuned one and its base."
    other_changes = len(report.vectors) + len(report.left_out)
    return (
        f"None of the chosen layers that a low-rank adapter can hold has changed, but {other_changes} others have "
        f"({', '.join([*report.left_out, *report.vectors][:3])}). Change the pattern, or include convolutions."
    )
