"""The DEFT repository's files for OmniGen: `knowledge_injection_state.bin` and `knowledge_injection_config.json`.

Per layer `.P`, `.R_new`, and `.Q_P_cached` (the Q that a run with a fixed factorisation used), `.gate`, and `.lora_A`
[out, r] and `.lora_B` [r, in] for its LoRA, additive_update: W + sigmoid(gate) alpha / r A B, where P and R_new are
there, too, and are not used. The .json says the projector ("None" is P relu(P)^T), whether it is computed anew in each
step (then a `.Q_P_cached` is not used) and the LoRA's alpha; the .bin beside it with the same settings needs full
unpickling and is not opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapter import Adapter, from_layers
from . import safe
from .layout import (
    SVD_SIGNS,
    by_layer,
    factors_of_authors,
    gate_weight,
    lacking,
    lora_of_authors,
    matrix,
    of_omnigen,
    put,
    spell,
)
from .source import Source

NAME = "deft_omnigen"
CONFIG = "knowledge_injection_config.json"
_PROJECTORS = {"qr": "qr", "svd": "svd", "None": "relu"}
_CACHED = ("qr", "svd")  # projectors whose Q the repository stores
_ENDINGS = (".P", ".R_new", ".Q_P_cached", ".gate", ".lora_A", ".lora_B")
_SPELLED = {
    "deft_Q": ".P",
    "deft_right": ".P",
    "deft_R": ".R_new",
    "lora_up.weight": ".lora_A",
    "lora_down.weight": ".lora_B",
}


def matches(source: Source) -> bool:
    """Whether P and R_new are there, or the repository's own names for a LoRA with its settings beside it."""
    keys = source.tensors.keys()
    if any(key.endswith(".R_new") and ".lora_layer." not in key for key in keys):
        return True
    return any(key.endswith(".lora_A") for key in keys) and (source.path.parent / CONFIG).is_file()


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter of the file's DEFT and LoRA layers. Raises ValueError for an unknown projector or half a layer."""
    path = source.path.parent / CONFIG
    settings = safe.read_json(path) if path.is_file() else {}
    records: Mapping[str, Any] = settings.get("layer_configs", {})
    if not isinstance(records, dict):
        raise ValueError(f"{path} has no object layer_configs: save or download it again.")
    groups, other_tensors = by_layer(source, _ENDINGS)
    layers: dict[str, dict[str, Tensor]] = {}
    projectors = set()
    cached = []
    notes: dict[str, None] = {}
    for name, group in groups.items():
        record = records.get(name, {})
        if not isinstance(record, dict):
            raise ValueError(f"{path} has no settings object for {name}: save or download it again.")
        gated = ".gate" in group and record.get("use_gating", True)
        gate = gate_weight(source, f"{name}.gate", group.get(".gate") if gated else None)
        if ".lora_A" in group or ".lora_B" in group:
            alpha = _alpha(record, path, name)
            lora = lora_of_authors(source, name, group.get(".lora_A"), group.get(".lora_B"), alpha, gate)
            put(layers, name, lora, source)
            if alpha is None:
                notes[f"The alpha of the LoRA is not beside {source.path.name}: the rank is assumed."] = None
            continue
        chosen = _projector(record, group, projector, source, name)
        projectors.add(chosen)
        layer = _layer(group, chosen, record, source, name)
        cached += [name] if chosen in _CACHED and _fixed(group, record) else []
        if ".R_new" not in group:
            raise lacking(source, f"{name}{next(iter(group))}", f"{name}.R_new")
        layer["deft_R"] = matrix(source, f"{name}.R_new", group[".R_new"]).float() * gate
        if chosen == "svd" and not _fixed(group, record):
            notes[SVD_SIGNS] = None
        put(layers, name, layer, source)
    adapter = from_layers(layers, of_omnigen(layers))
    spell(adapter, source, _SPELLED)
    adapter.spelled |= {f"{name}.deft_Q": f"{name}.Q_P_cached" for name in cached}
    adapter.update(other_tensors)
    if projectors:
        adapter.metadata["projector"] = "/".join(sorted(projectors))
    if not records and projector == "auto" and projectors:
        notes[
            f"{CONFIG} is not beside {source.path.name}: {adapter.metadata['projector']} is assumed, with the gate if "
            "there is one."
        ] = None
    if notes:
        adapter.metadata["note"] = " ".join(notes)
    return adapter


def _alpha(record: Mapping[str, Any], path: Path, name: str) -> float | None:
    """The lora_alpha of a layer's settings; None if there is none, where the repository's script gives it the rank."""
    value = record.get("lora_alpha")
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9:
        return float(value)
    raise ValueError(f"{path} has lora_alpha {str(value)[:40]!r} for {name}, but a number below 1e9 is needed.")


def _projector(
    record: Mapping[str, Any], group: Mapping[str, Tensor], projector: str, source: Source, name: str
) -> str:
    if projector != "auto":
        return projector
    if "decomposition_method" not in record:
        return "qr" if ".Q_P_cached" in group else "relu"
    method = str(record["decomposition_method"])
    if method not in _PROJECTORS:
        raise ValueError(f"{source.path}: layer {name} has the unknown projector {method!r}: choose one by hand.")
    return _PROJECTORS[method]


def _fixed(group: Mapping[str, Tensor], record: Mapping[str, Any]) -> bool:
    """Whether the layer goes by its stored Q, not by the P of the file."""
    return ".Q_P_cached" in group and not (record.get("compute_svd_each_forward") is True and ".P" in group)


def _layer(
    group: Mapping[str, Tensor], chosen: str, record: Mapping[str, Any], source: Source, name: str
) -> dict[str, Tensor]:
    """The layer's Q and, where it differs, right."""
    if chosen in _CACHED and _fixed(group, record):
        Q = right = matrix(source, f"{name}.Q_P_cached", group[".Q_P_cached"]).float()
    elif ".P" in group:
        Q, right = factors_of_authors(matrix(source, f"{name}.P", group[".P"]), chosen)
    else:
        raise lacking(source, f"{name}{next(iter(group))}", f"{name}.P")
    return {"deft_Q": Q} if right is Q else {"deft_Q": Q, "deft_right": right}
