"""Texts about a training: before it, in its report, and in the adapter's file."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...deft_ops import modelspec
from ...deft_ops.costs import GPU, PROCESS, TrainingCost
from ...deft_ops.version import VERSION
from ...models.fingerprint import fingerprint
from ..data.material import Dataset
from ..settings import targets
from ..settings.run import digest
from ..settings.settings import Settings
from ..settings.usual_rates import far_from_usual
from .previews import Previews
from .trainer import Trainer


def identity_of(model: Any, settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """The parts that decide the result: settings, data, the base, what is patched onto it and how it is sampled.

    `model` has to be loaded: what is computed on another device may differ in the last bit.
    """
    patches = model.patches
    sampling = model.model.model_sampling
    return settings.identity() | {
        "data": dataset.hash(),
        "base": fingerprint(model),
        "patches": digest({key: described(patches[key]) for key in sorted(patches)}),
        "sampling": [type(sampling).__name__, float(sampling.percent_to_sigma(0.5))],
        "text_encoder": dataset.text is not None and not settings.trains_token,
    }


def described(value: Any) -> Any:
    """A patch as numbers and texts: tensors by their shape and sum."""
    if isinstance(value, torch.Tensor):
        return [list(value.shape), float(value.detach().cpu().double().sum())]
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if hasattr(value, "weights"):
        return [type(value).__name__, described(value.weights)]
    return value if isinstance(value, (str, int, float, type(None))) else type(value).__name__


def opening(trainer: Trainer) -> str:
    """A text that says what is going to be trained."""
    return f"{trainer.title()}, {sum(parameter.numel() for parameter in trainer.parameters):,} trained values"


def rate_warnings(settings: Settings) -> list[str]:
    """A warning of a learning rate that is far from the usual one; none where it is not."""
    text = far_from_usual(settings)
    return [f"WARNING: {text}"] if text else []


def stopped(step: int, steps: int, kept: int, resume: bool, checkpoints: bool) -> str:
    """What an interrupted run says: where it stopped, and what of it is kept. kept: the newest checkpoint's step."""
    place = f"stopped at step {step} of {steps}"
    if not checkpoints:
        return f"{place}; nothing is kept, because checkpoint_every is 0"
    if not kept:
        return f"{place}; nothing is kept"
    go_on = "run again to continue" if resume else "switch resume on and run again to continue"
    return f"{place}, kept; {go_on}" if kept == step else f"{place}; step {kept} is kept: {go_on} from there"


def again(place: Path) -> str:
    """What is said of a run that has nothing to train: where its adapter comes from."""
    return f"finished before, not trained again: taken from {place}"


def before(title: str, losses: Sequence[float], steps: int, seconds: float | None, shown: bool) -> list[str]:
    """The report of a run that was finished before. losses: NaN for steps whose line in the log is damaged; those of
    fewer steps where the log is gone. shown: whether previews were asked for.
    """
    took = "" if seconds is None else f" in {seconds:.1f} s ({seconds / steps:.3f} s a step)"
    lacking = sum(map(math.isnan, losses))
    first, last = ("not known" if math.isnan(mean) else f"{mean:.4f}" for mean in ends(losses))
    return [
        f"{title}, {steps} steps{took}",
        f"loss {first} (first tenth) -> {last} (last tenth)"
        + f"; its log has lost {lacking} of {steps} losses" * bool(lacking)
        if len(losses) == steps
        else f"loss {last} at the last step; its log no longer exists",
        *["no previews: they are only made during training"] * shown,
    ]


def patched_notes(model: Any, shown: Previews | None = None) -> list[str]:
    """A note that the base is not the plain model; none if it is."""
    if not model.patches:
        return []
    if shown is not None and shown.model is not None and not shown.model.patches:
        return [
            f"trained with {len(model.patches)} patched weights (such as a training adapter's), and previewed "
            "without them: apply the adapter without them"
        ]
    return [
        f"trained on top of {len(model.patches)} patched weights of the model: apply the adapter after the same patches"
    ]


def summary(trainer: Trainer, change: dict[str, float], seconds: float, steps: int) -> str:
    """The proof of effect: layers, parameters, gradient norms, how far the weights moved."""
    losses, norms = trainer.losses, trainer.gradient_norms
    first, last = ends(losses)
    values = sorted(value for value in change.values() if math.isfinite(value)) or [math.inf]
    masks = sum(example.mask is not None for example in trainer.dataset.examples)
    pictures, prior = len(trainer.dataset.examples), len(trainer.dataset.prior)
    data_line = f"{pictures} picture{'s' * (pictures > 1)}"
    if prior:
        data_line += f", {prior} prior picture{'s' * (prior > 1)}"
    if masks:
        data_line += f", {masks} with a mask"
    sizes = trainer.dataset.sizes()
    return "\n".join(
        [
            f"{opening(trainer)}, {steps} steps in {seconds:.1f} s ({seconds / max(1, steps):.3f} s a step)",
            data_line + (f", {len(sizes)} sizes" if len(sizes) > 1 else ""),
            *trainer.dataset.notes,
            f"loss {first:.4f} (first tenth) -> {last:.4f} (last tenth)",
            f"gradient norm {norms[0]:.3g} at the first step, {norms[-1]:.3g} at the last",
            f"|delta W| / |W|: median {values[len(values) // 2]:.4f}, smallest {values[0]:.4f}, "
            f"largest {values[-1]:.4f}",
            *how(trainer),
        ]
    )


def cost_line(cost: TrainingCost) -> str:
    """A line on what the training has cost."""
    whose = {GPU: "of the GPU, as PyTorch allocates it", PROCESS: "of the process"}
    parts = [] if cost.seconds_a_step is None else [f"{cost.seconds_a_step:.3g} s a step (median)"]
    if cost.peak_bytes is not None:
        parts.append(f"peak memory {cost.peak_bytes / 2**20:,.0f} MiB ({whose[cost.memory]})")
    else:
        parts.append("peak memory not measured")
    return "cost: " + ", ".join([*parts, f"adapter {(cost.bytes or 0) / 2**20:.3f} MiB"])


def how(trainer: Trainer) -> list[str]:
    """Lines on what was done otherwise than asked for or than ComfyUI does it, and on what was not used."""
    precision, scale = trainer.precision, trainer.scale
    lines = []
    if precision.compute is not None:
        lines.append(f"computed in {precision.name}, for ComfyUI's own {names_of(precision.native)}")
    if scale is not None:
        lines.append(
            f"loss scaling for fp16: {scale.skipped} passes overflowed and were repeated, scale {scale.value:g} at "
            "the end"
        )
    lines += trainer.notes.lines()
    if trainer.switched_off:
        lines.append(f"switched off for the training: {', '.join(trainer.switched_off)}")
    lines += [targets.note_of(trainer.root, trainer.settings.layers), trainer.repairs.text_line(), trainer.checked]
    return [line for line in lines if line]


def names_of(dtype: torch.dtype) -> str:
    """The name of a dtype as users know it."""
    return str(dtype).removeprefix("torch.")


def warnings(trainer: Trainer, change: Mapping[str, float], problems: Sequence[str]) -> list[str]:
    """Warnings of what did not go well and did not end the run."""
    texts = list(problems)
    first, last = ends(trainer.losses)
    if last > 1.5 * first:
        texts.append(f"the loss has risen from {first:.3g} to {last:.3g}: lower the learning rate")
    finite = [value for value in change.values() if math.isfinite(value)]
    if (middle := statistics.median(finite or [0.0])) > 1:
        texts.append(f"the weights moved by {middle:.1f} times their own size: lower the learning rate")
    if trainer.varying:
        texts.append(f"repeating this training gives slightly different numbers: {trainer.varying}")
    idle = [name for name, value in change.items() if not value]
    if idle:
        texts.append(f"{len(idle)} layers were not changed, the model does not use them: {', '.join(idle[:5])}")
    return [f"WARNING: {problem}" for problem in texts]


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """The means of the first and of the last tenth of the values: of those that are known, NaN without any."""
    tenth = max(1, len(losses) // 10)
    first, last = ([loss for loss in part if not math.isnan(loss)] for part in (losses[:tenth], losses[-tenth:]))
    return sum(first) / len(first) if first else math.nan, sum(last) / len(last) if last else math.nan


def effect(change: dict[str, float]) -> None:
    """Check that the adapter changes the model. Raises ValueError for one that is no use."""
    broken = [name for name, value in change.items() if math.isnan(value)]
    if broken:
        raise ValueError(
            f"The trained adapter has NaN or infinite values in {len(broken)} layers ({broken[0]}): lower the "
            "learning rate."
        )
    if not any(change.values()):
        raise ValueError("The trained adapter changes nothing: raise the learning rate or the number of steps.")


def metadata(trainer: Trainer, identity: dict[str, Any], change: dict[str, float] | None = None) -> dict[str, str]:
    """The metadata of the adapter's file: how it was made."""
    settings = trainer.settings
    record = settings.record() | {
        "steps": trainer.step,
        "pictures": len(trainer.dataset.examples),
        "prior_pictures": len(trainer.dataset.prior),
        "text_encoder": bool(trainer.text_layers),
        "dataset_hash": identity["data"],
        "final_loss": trainer.losses[-1],
        "versions": {"pack": VERSION, "torch": torch.__version__, "python": platform.python_version()},
    }
    if change is not None:
        record["largest_change"] = max((value for value in change.values() if math.isfinite(value)), default=0.0)
    projector = {"projector": settings.options["projector"]} if "projector" in settings.options else {}
    base = modelspec.base_of(trainer.model.model)
    if settings.trains_token:  # written as it is, and its captions have a mark for the token
        managed = modelspec.base_fields(base, "textual-inversion") | modelspec.own_fields(settings.options["token"])
    else:
        managed = modelspec.base_fields(base)
        managed |= modelspec.caption_fields(trainer.dataset.words, len(trainer.dataset.examples))
    return (
        projector
        | managed
        | {
            "method": settings.method,
            "base_model": type(trainer.model.model).__name__,
            "base_hash": identity["base"],
            "training": json.dumps(record, sort_keys=True),
        }
    )
