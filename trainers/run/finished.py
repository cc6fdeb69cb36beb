"""Adapter files of finished runs, known by the mark in their headers: which file a run may write, and what it need not
train again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...deft_ops import adapter as adapters
from ...deft_ops import costs, modelspec
from ...deft_ops.files import native, safe
from ..settings.run import digest
from ..settings.settings import Settings
from .checkpoints import RunFolder


@dataclass(frozen=True)
class MadeBefore:
    """An adapter that a run has made before, and the file that it was read from.

    losses and rates: of all steps, NaN for those that the log lacks. Where it is gone there is the last loss alone. In
    both cases there is no `training_seconds`.
    """

    file: Path
    adapter: adapters.Adapter
    losses: list[float]
    rates: list[float]


def header_of(file: Path) -> dict[str, str]:
    """The header of an adapter file; empty where there is none, or another kind of file."""
    try:
        return safe.read_metadata(file)
    except (OSError, ValueError):
        return {}


def mark_of(file: Path) -> str:
    """The mark of the run that wrote this file under its name; empty for any other file."""
    return header_of(file).get(native.RUN, "")


def is_made(file: Path, mark: str, metadata: Mapping[str, str]) -> bool:
    """Whether a file is this run's adapter of the same steps already."""
    header = header_of(file)
    return header.get(native.RUN) == mark and header.get("training") == metadata.get("training")


def check_free(file: Path, identity: Mapping[str, Any], settings: Settings) -> None:
    """Check that a run may write this file: there is none, or one of the same run.

    Raises:
        ValueError: there is a file of another training, or any other one.
    """
    if not file.exists() or mark_of(file) == digest(identity):
        return
    header = header_of(file)
    names = changed(native.settings_of(header.get("training", "")), header.get("base_hash", ""), identity, settings)
    other = f"of a training with another {', '.join(names)}" if names else "of something else"
    raise ValueError(f"The file {file} already exists, {other}: choose another name, or move that file away.")


def changed(record: Mapping[str, Any], base: str, identity: Mapping[str, Any], settings: Settings) -> list[str]:
    """What differs between the record in a file's header and a run, in the order of the settings; none without one."""
    if not record:
        return []
    own = settings.record() | {"text_encoder": identity["text_encoder"]}
    for name in ("steps", "checkpointing"):
        if name not in identity:
            del own[name]
    names = [name.replace("_", " ") for name, value in own.items() if name in record and record[name] != value]
    names += ["set of pictures or captions"] * (record.get("dataset_hash") != identity["data"])
    return names + ["model"] * (base != identity["base"])


def find(
    folder: RunFolder | None, file: Path | None, identity: Mapping[str, Any], settings: Settings
) -> MadeBefore | None:
    """The adapter of this run after its last step, from its folder or else from the file of its name; None without one,
    where `resume` is off, and for a token, whose adapter is no adapter file.

    An adapter that changed nothing counts as none, so that the run ends in the error that says so. Without a whole log
    a checkpoint of the last step goes first: it has the losses.
    """
    if folder is None or not folder.resume or settings.trains_token:
        return None
    log = folder.lines(settings.steps)
    whole = len(log) == settings.steps
    if not whole and any(step == settings.steps for step, _ in folder.checkpoints()):
        return None
    for candidate in (folder.adapter(settings.steps), file):
        if candidate is None or not candidate.is_file():
            continue
        try:
            tensors, header = safe.read_tensors(candidate)
            record = native.settings_of(header.get("training", ""))
            last, moved = float(record.get("final_loss", math.nan)), float(record.get("largest_change", 0))
            ours = header.get(native.RUN) == digest(identity) and record.get("steps") == settings.steps and moved > 0
            if ours:
                adapters.validate(tensors, str(candidate))
        except (OSError, ValueError, TypeError, OverflowError) as error:
            folder.problem(f"{candidate.name} cannot be read and was skipped ({error})")
            continue
        if ours:
            own = ("format", native.RUN, costs.COST_KEY, *modelspec.HASHES)
            adapter = adapters.Adapter(tensors, {key: text for key, text in header.items() if key not in own})
            losses, rates = _of_steps(log, "loss", settings.steps), _of_steps(log, "rate", settings.steps)
            if not losses or math.isnan(losses[-1]):
                losses[-1:] = [last]
            adapter.cost = costs.from_text(header.get(costs.COST_KEY, ""))
            adapter.training_seconds = sum(line["seconds"] for line in log) if whole else None
            return MadeBefore(candidate, adapter, losses, rates)
    return None


def _of_steps(log: Sequence[Mapping[str, Any]], name: str, steps: int) -> list[float]:
    """A number of each step, NaN where the log lacks it; empty without any line."""
    values = {line["step"]: float(line[name]) for line in log}
    return [values.get(step, math.nan) for step in range(1, steps + 1)] if values else []
