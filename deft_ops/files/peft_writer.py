"""PEFT's files, written: the folder, and diffusers' one file with the record in its header; peft.py reads both.

DEFT, PaRa and LoRA are written. PEFT stores P and R per layer and one configuration for all (peft/tuners/deft, 0.20 and
later). Its qr takes Q as torch returns it, so R follows the signs of that factorisation.
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
from ..adapter import Adapter, foreign, layers, validate
from ..projectors import raw_qr
from . import safe
from .source import PEFT_CONFIG, PEFT_HEADER, PEFT_PREFIX, PEFT_WEIGHTS

_WRITTEN = ("deft", "para", "lora")  # the methods of which there is a writer


def write(
    adapter: Adapter,
    folder: str | Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the PEFT folder (adapter_model.safetensors, adapter_config.json); returns it.

    `names` gives each layer's module name in the diffusers or transformers model. `shapes`, the base weights' shapes by
    layer name, lets convolutions be told from linear layers. `metadata` goes into the header of the weights. Raises
    ValueError for what PEFT cannot hold: other methods than DEFT, PaRa and LoRA, the ppt projector, convolutions, mixed
    methods, ranks or alphas that differ (DEFT), other formats, unnamed layers.
    """
    folder = Path(folder)
    tensors, config = _export(adapter, names, shapes or {}, f"The adapter for {folder.name}")
    prefixed = {f"{PEFT_PREFIX}{key}": tensor for key, tensor in tensors.items()}
    contents = {
        PEFT_CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        PEFT_WEIGHTS: safe.to_bytes(prefixed, {**(metadata or {}), "format": "pt"}),
    }
    safe.write_files(folder, contents)
    return folder


def write_diffusers(
    adapter: Adapter,
    path: str | Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write one .safetensors with the record in its header, as diffusers' save_lora_adapter does; returns the path.

    `prefix` ("unet", "transformer"), if given, stands before all keys and record fields, as in pipelines' files.
    `metadata` goes into the header too. Raises ValueError as `write` does.
    """
    path = Path(path)
    tensors, config = _export(adapter, names, shapes or {}, f"The adapter for {path.name}")
    start = f"{prefix}." if prefix else ""
    record = json.dumps({f"{start}{key}": value for key, value in config.items()}, indent=2, sort_keys=True)
    prefixed = {f"{start}{key}": tensor for key, tensor in tensors.items()}
    safe.write_tensors(prefixed, path, {**(metadata or {}), "format": "pt", PEFT_HEADER: record})
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
        if (method := methods.method_of(group).NAME) not in _WRITTEN:
            raise ValueError(
                f"{source} cannot be written for PEFT: layer {name} is of the method {method}, and only "
                f"{', '.join(_WRITTEN)} are written for it. Choose the native format."
            )
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
