"""The native file: ComfyUI's own layer names plus .deft_Q, .deft_right, .deft_R, .alpha (or core's LoRA suffixes).

Q is stored and not P, so nothing is factorised at load. The header says what made the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import costs, methods, modelspec
from ..adapter import Adapter, describe, layers, validate
from . import peft_tuners, safe
from .source import Source

NAME = "native"
# Of the header: the mark of the training run that wrote this file under its name, so never of a copy.
RUN = "training_run"


def matches(source: Source) -> bool:
    """Return True for any tensors: a file that no other format claims is kept as it is, for ComfyUI's own loader."""
    return True


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter with the tensors as they are. `projector` is not used: a native file stores the projected Q.

    Raises ValueError for a part of a layer of the header's method that would be a layer of another, and for a damaged
    record of PEFT's.
    """
    adapter = Adapter(source.tensors, source.metadata)
    adapter.source = source.path.name
    peft_tuners.parts_of(adapter)
    method = methods.METHODS.get(source.metadata.get("method", ""))
    whole = () if method is None else method.whole
    for name, group in layers(adapter).items() if whole else ():
        there = [suffix for suffix in whole if suffix in group]
        lacking = [suffix for suffix in whole if suffix not in group]
        if there and lacking and methods.method_of(group) is not method:
            raise ValueError(
                f"{source.path} has {name}.{there[0]} without {name}.{lacking[0]}, which belongs to it: save or "
                "download it again."
            )
    return adapter


def write(adapter: Adapter, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the adapter to `path` (.safetensors) with its own metadata and `metadata` on top; returns the path.

    Raises ValueError if the adapter is empty or holds a NaN or infinity.
    """
    path = Path(path)
    validate(adapter, f"The adapter for {path.name}")
    left = ("file_format", "note", RUN, costs.COST_KEY, *modelspec.HASHES)  # of the reader; of the file that was read
    kept_metadata = {key: value for key, value in adapter.metadata.items() if key not in left}
    cost = {} if adapter.cost is None else {costs.COST_KEY: adapter.cost.text()}
    safe.write_tensors(adapter, path, {"format": "pt", **kept_metadata, **(metadata or {}), **cost})
    return path


def native_metadata(
    adapter: Adapter,
    *,
    name: str,
    version: str,
    projector: str = "",
    base_name: str = "",
    base_hash: str = "",
    architecture: str = "",
    training: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The header of a native file: our record, and the modelspec.* / ss_* fields that LoRA managers show.

    `name` is the adapter's title, `version` the pack's version, `base_name` the base model's name, `base_hash` its
    fingerprint (no file hash, so not in ss_sd_model_hash), `architecture` its ModelSpec id, which is otherwise what the
    adapter's own metadata say, or the base model's class; `training` the settings (steps, learning_rate, seed, ...),
    otherwise the adapter's own. Empty values are skipped, and so are unknown fields of a base.
    """
    record = {**adapter.metadata, **describe(adapter)}
    method = record.get("method", "")
    settings = dict(training or settings_of(record.get("training", "")))
    named = modelspec.named(base_name or record.get("base_model", ""))
    base = {} if architecture else modelspec.completed(record, named)
    fields = {
        "method": method,
        "projector": projector or record.get("projector", ""),
        "rank": record.get("rank", ""),
        "alpha": record.get("alpha", ""),
        "base_model": base_name or record.get("base_model", ""),
        "base_hash": base_hash or record.get("base_hash", ""),
        "training": json.dumps(dict(training), sort_keys=True) if training else record.get("training", ""),
        "pack_version": version,
        **base,
        **modelspec.own_fields(name),
        "ss_output_name": name,
        "ss_sd_model_name": base_name,
        "ss_network_module": f"deft-nodes.{method}" if method else "",
        "ss_network_dim": record.get("rank", ""),
        "ss_network_alpha": record.get("alpha", ""),
        "ss_learning_rate": _text(settings.get("learning_rate")),
        "ss_max_train_steps": _text(settings.get("steps")),
        "ss_steps": _text(settings.get("steps")),
        "ss_seed": _text(settings.get("seed")),
    }
    if architecture:
        fields["modelspec.architecture"] = f"{architecture}/lora"
    return {key: value for key, value in fields.items() if value}


def settings_of(text: str) -> dict[str, Any]:
    """The settings in a header's `training`; none where another program has something else under that name."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _text(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
