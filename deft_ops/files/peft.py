"""PEFT's DEFT and LoRA files: the folder, its bare .safetensors, and diffusers' form with the record in the header.

PEFT stores P and R per layer and one configuration for all (peft/tuners/deft, 0.20 and later). Its qr takes Q as torch
returns it, so R follows the signs of that factorisation. `alpha` scales the injection only, by alpha / layer rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import methods
from ..adapter import Adapter, foreign, from_layers, layers, validate
from ..projectors import project, raw_qr
from . import safe
from .source import PEFT_CONFIG, PEFT_WEIGHTS, Source

NAME = "peft"
HEADER_KEY = "lora_adapter_metadata"
MODEL_PREFIX = "base_model.model."

_LORA_PARTS = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
}


# ---------------------------------------------------------------------------------------------------------- reading


def matches(source: Source) -> bool:
    """Whether the file has PEFT's DEFT matrices, or LoRA matrices with PEFT's record of their alpha."""
    if any(key.endswith(".deft_P") for key in source.tensors):
        return True
    has_record = HEADER_KEY in source.metadata or (source.path.name == PEFT_WEIGHTS and source.config is not None)
    return has_record and any(key.endswith(f".{part}") for key in source.tensors for part in _LORA_PARTS)


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter with Q instead of P; layer names as in the file without "base_model.model.".

    The projector and alpha come from the record (header first, then adapter_config.json). Without a record the
    projector is `projector`, or qr if that is "auto", and metadata["note"] says so. A `projector` other than "auto"
    overrides the record. Raises ValueError for PEFT methods other than DEFT and LoRA, and for DoRA.
    """
    records = _records(source)
    for record in records.values():
        _check_record(record, source.path)
    if any(key.endswith(".deft_P") for key in source.tensors):
        return _read_deft(source, records, projector)
    return _read_lora(source, records)


def _records(source: Source) -> dict[str, dict[str, Any]]:
    """The configurations by component prefix ("unet", "transformer"); "" holds for all layers."""
    if HEADER_KEY not in source.metadata:
        return {} if source.config is None else {"": source.config}
    header = safe.parse_json(source.metadata[HEADER_KEY], f"The record {HEADER_KEY} in the header of {source.path}")
    if "r" in header:
        return {"": header}
    records: dict[str, dict[str, Any]] = {}
    for key, value in header.items():
        component, _, field = key.partition(".")
        records.setdefault(component, {})[field] = value
    return records


def _check_record(record: Mapping[str, Any], path: Path) -> None:
    kind = record.get("peft_type", "LORA" if "lora_alpha" in record else "DEFT")
    if kind not in ("DEFT", "LORA"):
        raise ValueError(f"{path} holds a PEFT adapter of type {kind}: only DEFT and LORA are read here.")
    if record.get("use_dora"):
        raise ValueError(f"{path} holds a DoRA adapter in PEFT's form: convert it to a form that ComfyUI reads.")


def _record_of(name: str, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return records.get(name.partition(".")[0], records.get("", {}))


def _read_deft(source: Source, records: Mapping[str, dict[str, Any]], projector: str) -> Adapter:
    result: dict[str, dict[str, Tensor]] = {}
    used: set[str] = set()
    projectors: set[str] = set()
    unrecorded = False
    for key, P in source.tensors.items():
        if not key.endswith(".deft_P"):
            continue
        if P.ndim != 2:
            raise ValueError(f"{source.path} has {key} of shape {list(P.shape)}, but a matrix [out, rank] is needed.")
        stem = key.removesuffix(".deft_P")
        name = stem.removeprefix(MODEL_PREFIX)
        record = _record_of(name, records)
        unrecorded = unrecorded or "decomposition_method" not in record
        chosen = record.get("decomposition_method", "qr") if projector == "auto" else projector
        projectors.add(chosen)
        # Q as torch returns it: the R of the file belongs to these signs.
        Q, right = (raw_qr(P)[0], None) if chosen == "qr" else project(P, chosen)
        group = {"deft_Q": Q}
        if right is not None and right is not Q:
            group["deft_right"] = right
        if f"{stem}.deft_R" in source.tensors:
            R = source.tensors[f"{stem}.deft_R"]
            group["deft_R"] = R
            # A capped layer has a smaller rank and, as in PEFT, its own scale: alpha / its rank.
            alpha = record.get("alpha") or Q.shape[1]
            group["alpha"] = torch.tensor(float(alpha), dtype=torch.float32)
        result[name] = {suffix: tensor.contiguous() for suffix, tensor in group.items()}
        used |= {key, f"{stem}.deft_R"}
    adapter = from_layers(result)
    adapter.update({key: tensor for key, tensor in source.tensors.items() if key not in used})
    adapter.metadata["projector"] = "/".join(sorted(projectors))
    if unrecorded and projector == "auto":
        adapter.metadata["note"] = (
            f"{source.path.name} has no record of its projector and alpha: assumed the projector qr and no alpha."
        )
    return adapter


def _read_lora(source: Source, records: Mapping[str, dict[str, Any]]) -> Adapter:
    tensors: dict[str, Tensor] = {}
    for key, tensor in source.tensors.items():
        part = next((part for part in _LORA_PARTS if key.endswith(f".{part}")), None)
        if part is None:
            tensors[key] = tensor
            continue
        name = key.removesuffix(f".{part}").removeprefix(MODEL_PREFIX)
        tensors[f"{name}.{_LORA_PARTS[part]}"] = tensor
        if _LORA_PARTS[part] == "lora_down.weight":
            alpha = _lora_alpha(name, tensor.shape[0], records)
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return Adapter(tensors)


def _lora_alpha(name: str, rank: int, records: Mapping[str, dict[str, Any]]) -> float:
    """alpha of a layer, patterns looked up as PEFT's get_pattern_key does; rsLoRA's alpha / sqrt(r) made alpha / r."""
    record = _record_of(name, records)
    patterns: dict[str, float] = record.get("alpha_pattern") or {}
    module = name if "" in records else name.partition(".")[2]
    found = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = float(record.get("lora_alpha", rank) if found is None else found)
    return alpha * rank**0.5 if record.get("use_rslora") else alpha


# ---------------------------------------------------------------------------------------------------------- writing


def write(
    adapter: Adapter,
    folder: str | Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write the PEFT folder (adapter_model.safetensors, adapter_config.json); returns it.

    `names` gives each layer's module name in the diffusers or transformers model. `shapes`, the base weights' shapes by
    layer name, lets convolutions be told from linear layers. Raises ValueError for what PEFT cannot hold: the ppt
    projector, convolutions, mixed methods, ranks or alphas that differ (DEFT), other formats, unnamed layers.
    """
    folder = Path(folder)
    tensors, config = _export(adapter, names, shapes or {}, f"The adapter for {folder.name}")
    prefixed = {f"{MODEL_PREFIX}{key}": tensor for key, tensor in tensors.items()}
    contents = {
        PEFT_CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        PEFT_WEIGHTS: safe.to_bytes(prefixed, {"format": "pt"}),
    }
    safe.write_files(folder, contents)
    return folder


def write_diffusers(
    adapter: Adapter,
    path: str | Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    prefix: str = "",
) -> Path:
    """Write one .safetensors with the record in its header, as diffusers' save_lora_adapter does; returns the path.

    `prefix` ("unet", "transformer"), if given, stands before all keys and record fields, as in pipelines' files.
    Raises ValueError as `write` does.
    """
    path = Path(path)
    tensors, config = _export(adapter, names, shapes or {}, f"The adapter for {path.name}")
    start = f"{prefix}." if prefix else ""
    record = json.dumps({f"{start}{key}": value for key, value in config.items()}, indent=2, sort_keys=True)
    prefixed = {f"{start}{key}": tensor for key, tensor in tensors.items()}
    safe.write_tensors(prefixed, path, {"format": "pt", HEADER_KEY: record})
    return path


def _export(
    adapter: Adapter, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's tensors by "<module>.<part>" and its configuration."""
    validate(adapter, source)
    others = foreign(adapter)
    if others:
        raise ValueError(f"{source} cannot be written for PEFT: {next(iter(others))} is of another format.")
    found = layers(adapter)
    for name, group in found.items():
        if name not in names:
            raise ValueError(f"{source} cannot be written for PEFT: layer {name} has no module name there.")
        if len(shapes.get(name, ())) > 2 or any(tensor.ndim > 2 for tensor in group.values()):
            raise ValueError(f"{source} cannot be written for PEFT: layer {name} is a convolution.")
    kinds = {methods.method_of(group) for group in found.values()}
    if len(kinds) > 1:
        raise ValueError(f"{source} cannot be written for PEFT: it mixes methods, and a PEFT adapter has one.")
    kind = kinds.pop()
    # On the CPU, where the signs of a QR factorisation are those that a reader on a CPU will find.
    factors = {name: methods.move(kind.from_tensors(group), device="cpu") for name, group in found.items()}
    build = _export_lora if kind is methods.get("lora") else _export_deft
    tensors, config = build(factors, names, source)
    return tensors, {**config, "target_modules": _targets([names[name] for name in found])}


def _targets(modules: list[str]) -> list[str] | str:
    """Full module names; PEFT also takes names that end so, hence a regular expression if a name has no dot."""
    if all("." in module for module in modules):
        return sorted(modules)
    return "|".join(re.escape(module) for module in sorted(modules))


def _config(kind: str, rank: int) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "r": rank,
        "task_type": None,
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _export_deft(
    factors: Mapping[str, Any], names: Mapping[str, str], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    rank = max(one.Q.shape[1] for one in factors.values())
    tensors: dict[str, Tensor] = {}
    kinds: set[str] = set()
    for name, one in factors.items():
        if one.Q.shape[1] != min(rank, one.Q.shape[0]):
            raise ValueError(
                f"{source} cannot be written for PEFT: layer {name} has rank {one.Q.shape[1]} and another has {rank}."
            )
        P, R, kind = _peft_pair(one, name, source)
        kinds.add(kind)
        tensors[f"{names[name]}.deft_P"] = P
        if R is not None:
            tensors[f"{names[name]}.deft_R"] = R
    if len(kinds) > 1:
        raise ValueError(f"{source} cannot be written for PEFT: its layers have different projectors.")
    para = all(one.R is None for one in factors.values())
    config = {
        **_config("DEFT", rank),
        "decomposition_method": kinds.pop(),
        "alpha": None if para else _common_alpha(factors, source),
        "para": para,
        "init_weights": True,
        "init_scale": 1.0,
        "deft_dropout": 0.0,
    }
    return tensors, config


def _peft_pair(factors: Any, name: str, source: str) -> tuple[Tensor, Tensor | None, str]:
    """(P, R, decomposition_method) float32 with which PEFT computes the same change."""
    Q = factors.Q.float()
    R = None if factors.R is None else factors.R.float()
    if factors.right is not None:
        if torch.equal(factors.right.float(), torch.relu(Q)):
            return Q, R, "relu"
        raise ValueError(f"{source} cannot be written for PEFT: the projector of layer {name} is neither qr nor relu.")
    error = (Q.T @ Q - torch.eye(Q.shape[1], device=Q.device)).abs().max().item()
    if error > (1e-4 if factors.Q.dtype == torch.float32 else 2e-2):  # rounding of the stored Q
        raise ValueError(
            f"{source} cannot be written for PEFT: Q of layer {name} is not orthonormal (the projector ppt?), and PEFT "
            "knows qr and relu only."
        )
    _, signs = raw_qr(Q)
    return Q, None if R is None else signs[:, None] * R, "qr"


def _common_alpha(factors: Mapping[str, Any], source: str) -> int | float | None:
    """The one alpha of all layers, None for a scale of 1 everywhere."""
    if all(one.scale == 1.0 for one in factors.values()):
        return None
    # Through float32, as files store it, so that layers of capped rank agree.
    alphas = {float(torch.tensor(one.scale * one.Q.shape[1], dtype=torch.float32)) for one in factors.values()}
    if len(alphas) > 1:
        raise ValueError(f"{source} cannot be written for PEFT: its layers have different alphas.")
    return _number(alphas.pop())


def _export_lora(
    factors: Mapping[str, Any], names: Mapping[str, str], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, int | float] = {}
    for name, one in factors.items():
        module = names[name]
        tensors[f"{module}.lora_A.weight"] = one.down.float()
        tensors[f"{module}.lora_B.weight"] = one.up.float()
        pattern = "^" + re.escape(module)  # PEFT would take a bare name as the end of longer ones too
        ranks[pattern] = one.up.shape[1]
        alphas[pattern] = _number(float(torch.tensor(one.scale * one.up.shape[1], dtype=torch.float32)))
    rank, alpha = max(ranks.values()), max(alphas.values())
    config = {
        **_config("LORA", rank),
        "lora_alpha": alpha,
        "rank_pattern": {key: value for key, value in ranks.items() if value != rank},
        "alpha_pattern": {key: value for key, value in alphas.items() if value != alpha},
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
        "init_lora_weights": True,
    }
    return tensors, config
