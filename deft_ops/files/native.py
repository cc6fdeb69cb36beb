"""The native file: ComfyUI's own layer names plus .deft_Q, .deft_right, .deft_R, .alpha (or core's LoRA suffixes).

Q is stored and not P, so nothing is factorised at load. The header says what made the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapter import Adapter, describe, validate
from . import safe
from .source import Source

NAME = "native"


def matches(source: Source) -> bool:
    """Any tensors: what no other format claims is kept as it is, for ComfyUI's own loader."""
    return True


def read(source: Source, projector: str = "auto") -> Adapter:
    """The tensors as they are. `projector` is not used: a native file stores the projected Q."""
    return Adapter(source.tensors, source.metadata)


def write(adapter: Adapter, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the adapter to `path` (.safetensors) with its own metadata and `metadata` on top; returns the path.

    Raises ValueError if the adapter is empty or holds a NaN or infinity.
    """
    path = Path(path)
    validate(adapter, f"The adapter for {path.name}")
    own = {key: value for key, value in adapter.metadata.items() if key not in ("file_format", "note")}  # of the reader
    safe.write_tensors(adapter, path, {"format": "pt", **own, **(metadata or {})})
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
    fingerprint (no file hash, so not in ss_sd_model_hash), `architecture` its ModelSpec id, `training` the settings
    (steps, learning_rate, seed, ...). Empty values are left out.
    """
    record = {**adapter.metadata, **describe(adapter)}
    method = record.get("method", "")
    settings = dict(training or {})
    fields = {
        "method": method,
        "projector": projector or record.get("projector", ""),
        "rank": record.get("rank", ""),
        "alpha": record.get("alpha", ""),
        "base_model": base_name or record.get("base_model", ""),
        "base_hash": base_hash or record.get("base_hash", ""),
        "training": json.dumps(settings, sort_keys=True) if settings else record.get("training", ""),
        "pack_version": version,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": name,
        "modelspec.architecture": f"{architecture}/{'lora' if method == 'lora' else method}" if architecture else "",
        "modelspec.implementation": "deft-nodes",
        "ss_output_name": name,
        "ss_sd_model_name": base_name,
        "ss_network_module": f"deft-nodes.{method}",
        "ss_network_dim": record.get("rank", ""),
        "ss_network_alpha": record.get("alpha", ""),
        "ss_learning_rate": _text(settings.get("learning_rate")),
        "ss_max_train_steps": _text(settings.get("steps")),
        "ss_steps": _text(settings.get("steps")),
        "ss_seed": _text(settings.get("seed")),
    }
    return {key: value for key, value in fields.items() if value}


def _text(value: Any) -> str:
    return "" if value is None else str(value)
