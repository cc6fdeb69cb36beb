"""The forms of DEFT, LoRA and DoRA that PEFT computes: its tensors by module, and its configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..projectors import raw_qr
from .common import alpha_tensor


def config_of(kind: str, rank: int) -> dict[str, Any]:
    """The fields that every configuration of PEFT has, for this peft_type."""
    return {
        "peft_type": kind,
        "r": rank,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "modules_to_save": None,
    }


_OF_LORA = {"bias": "none", "fan_in_fan_out": False}  # as DEFT's configuration has, too


def module_pattern(module: str) -> str:
    """A key of PEFT's patterns for one module: PEFT would take a bare name as the end of longer ones too."""
    return "^" + re.escape(module)


def others(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """The entries of a pattern that differ from the usual value."""
    return {key: value for key, value in values.items() if value != usual}


def number(value: float) -> int | float:
    """The value as an int if it is a whole number."""
    return int(value) if value == int(value) else value


def alpha_number(scale: float, rank: int) -> int | float:
    """The alpha of a layer, through float32, as files store it."""
    return number(float(alpha_tensor(scale, rank)))


def deft_form(
    factors: Mapping[str, Any], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's form of DEFT's factors by layer name, with the layers' module names and the adapter's name in messages.

    Raises ValueError for ranks, projectors or alphas that differ, and for a projector that PEFT does not know.
    """
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
        **config_of("DEFT", rank),
        **_OF_LORA,
        "decomposition_method": kinds.pop(),
        "alpha": None if para else _common_alpha(factors, source),
        "para": para,
        "init_weights": True,
        "init_scale": 1.0,
        "deft_dropout": 0.0,
    }
    return tensors, config


def _peft_pair(factors: Any, name: str, source: str) -> tuple[Tensor, Tensor | None, str]:
    """The tuple (P, R, decomposition_method), float32, with which PEFT computes the same change."""
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
    alphas = {alpha_number(one.scale, one.Q.shape[1]) for one in factors.values()}  # layers of capped rank agree
    if len(alphas) > 1:
        raise ValueError(f"{source} cannot be written for PEFT: its layers have different alphas.")
    return alphas.pop()


def lora_form(
    factors: Mapping[str, Any], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's form of LoRA's factors by layer name, with the layers' module names and the adapter's name in messages."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, int | float] = {}
    for name, one in factors.items():
        module = names[name]
        tensors[f"{module}.lora_A.weight"] = one.down.float()
        tensors[f"{module}.lora_B.weight"] = one.up.float()
        pattern = module_pattern(module)
        ranks[pattern] = one.up.shape[1]
        alphas[pattern] = alpha_number(one.scale, one.up.shape[1])
    rank, alpha = max(ranks.values()), max(alphas.values())
    config = {
        **config_of("LORA", rank),
        **_OF_LORA,
        "lora_alpha": alpha,
        "rank_pattern": others(ranks, rank),
        "alpha_pattern": others(alphas, alpha),
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
        "init_lora_weights": True,
    }
    return tensors, config


def dora_form(
    factors: Mapping[str, Any], names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's form of DoRA's factors. Raises ValueError for norms of input columns, which PEFT does not have."""
    tensors, config = lora_form(factors, names, shapes, source)
    for name, one in factors.items():
        if one.magnitude.shape[0] != len(one.up):
            raise ValueError(
                f"{source} cannot be written for PEFT: the norms of layer {name} are of its inputs, and PEFT has those "
                "of outputs only."
            )
        tensors[f"{names[name]}.lora_magnitude_vector"] = one.magnitude.float().flatten()
    return tensors, {**config, "use_dora": True}
