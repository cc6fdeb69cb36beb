"""The DEFT repository's files for OmniGen: `knowledge_injection_state.bin` and `knowledge_injection_config.json`.

Per layer `.P`, `.R_new`, and `.Q_P_cached` (the Q that a run with a fixed factorisation used), `.gate`, or `.lora_A`
[out, r] and `.lora_B` [r, in] for its LoRA. The .json says the projector ("None" is P relu(P)^T); the .bin beside it
with the same settings needs full unpickling and is not opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..adapter import Adapter, from_layers
from ..projectors import project
from . import safe
from .layout import by_layer, matrix, of_omnigen, put
from .source import Source

NAME = "deft_omnigen"
CONFIG = "knowledge_injection_config.json"
_PROJECTORS = {"qr": "qr", "svd": "svd", "None": "relu"}
_ENDINGS = (".P", ".R_new", ".Q_P_cached", ".gate", ".lora_A", ".lora_B")


def matches(source: Source) -> bool:
    """Whether P and R_new are there, or the repository's own names for a LoRA with its settings beside it."""
    keys = source.tensors.keys()
    if any(key.endswith(".R_new") and ".lora_layer." not in key for key in keys):
        return True
    return any(key.endswith(".lora_A") for key in keys) and (source.path.parent / CONFIG).is_file()


def read(source: Source, projector: str = "auto") -> Adapter:
    """DEFT and LoRA layers. Raises ValueError for an unknown projector or a layer whose tensors are not complete."""
    path = source.path.parent / CONFIG
    settings = safe.read_json(path) if path.is_file() else {}
    layers: Mapping[str, Any] = settings.get("layer_configs", {})
    groups, rest = by_layer(source, _ENDINGS)
    found: dict[str, dict[str, Tensor]] = {}
    projectors = set()
    for name, group in groups.items():
        record = layers.get(name, {})
        if not isinstance(record, dict):
            raise ValueError(f"{path} has no settings object for {name}: save or download it again.")
        if ".lora_A" in group and ".lora_B" in group:
            down = group[".lora_B"]
            alpha = torch.tensor(float(record.get("lora_alpha", down.shape[0])))
            put(found, name, {"lora_up.weight": group[".lora_A"], "lora_down.weight": down, "alpha": alpha}, source)
            continue
        chosen = _projector(record, group, projector, source, name)
        projectors.add(chosen)
        put(found, name, _layer(group, chosen, record, source, name), source)
    adapter = from_layers(found, of_omnigen(found))
    adapter.update(rest)
    if projectors:
        adapter.metadata["projector"] = "/".join(sorted(projectors))
    if not layers and projector == "auto" and projectors:
        adapter.metadata["note"] = (
            f"{CONFIG} is not beside {source.path.name}: taken as {adapter.metadata['projector']}, with the gate if "
            "there is one."
        )
    return adapter


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


def _layer(
    group: Mapping[str, Tensor], chosen: str, record: Mapping[str, Any], source: Source, name: str
) -> dict[str, Tensor]:
    if ".Q_P_cached" in group and chosen in ("qr", "svd"):
        Q = right = matrix(source, f"{name}.Q_P_cached", group[".Q_P_cached"]).float()
    elif ".P" in group:
        Q, right = project(matrix(source, f"{name}.P", group[".P"]), chosen)
    else:
        raise ValueError(f"{source.path} has layer {name} without its P: save or download it again.")
    layer = {"deft_Q": Q} if right is Q else {"deft_Q": Q, "deft_right": right}
    if ".R_new" in group:
        gated = ".gate" in group and record.get("use_gating", True)
        layer["deft_R"] = group[".R_new"].float() * (torch.sigmoid(group[".gate"].float()) if gated else 1.0)
    return layer
