"""Checks of a record of PEFT (adapter_config.json, or the header of diffusers' files), and who can compute it.

A record is read by what is known to be harmless. Each field of PEFT 0.21.2's configurations is in the tables here; any
other field must be off (null, false, 0 or empty), or have the default that it has in the PEFT that is installed, which
is what records without the field mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from . import layer_patterns

# The types that this pack computes itself.
COMPUTED_TYPES = ("DEFT", "LORA", "LOHA", "LOKR", "OFT")
# Those that PEFT can merge into weights.
MERGEABLE = frozenset(
    (
        "ADALORA",
        "ADAMSS",
        "BEFT",
        "BOFT",
        "C3A",
        "DELORA",
        "FOURIERFT",
        "FROD",
        "GLORA",
        "GRALORA",
        "HIRA",
        "HRA",
        "IA3",
        "LN_TUNING",
        "MISS",
        "OSF",
        "PEANUT",
        "PSOFT",
        "PVERA",
        "RANDLORA",
        "ROAD",
        "SHIRA",
        "SUPERTUNING",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    )
)
_ROUTER = "which mixes its parts anew for each input and cannot be merged into weights"
_PROMPT = "which makes prompts for language models and changes no weight"
_CANNOT = {
    "LILY": _ROUTER,
    "POLY": _ROUTER,
    "XLORA": _ROUTER,
    "SHADOW": "which runs beside the whole model and cannot be merged into weights",
    "TRAINABLE_TOKENS": "which changes the embeddings of single words",
    **dict.fromkeys(
        (
            "ADAPTION_PROMPT",
            "CARTRIDGE",
            "CPT",
            "MULTITASK_PROMPT_TUNING",
            "P_TUNING",
            "PREFIX_TUNING",
            "PROMPT_TUNING",
        ),
        _PROMPT,
    ),
    "BONE": "which PEFT 0.21 calls MISS: convert it with the PEFT that it was made with",
}

# Fields that are harmless whatever they say: how it was trained, or what the tensors' names and sizes say, too.
_ALL = (
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
)
_HARMLESS: dict[str, frozenset[str]] = {
    # The configs of starts count only with their init_lora_weights; ensure_weight_tying is for the embeddings of
    # language models; qalora_group_size and megatron_core only count with use_qalora and megatron_config.
    "LORA": frozenset(
        (
            *_ALL,
            "corda_config",
            "ensure_weight_tying",
            "eva_config",
            "loftq_config",
            "lora_bias",
            "lora_dropout",
            "lora_ga_config",
            "megatron_core",
            "merge_weights",
            "qalora_group_size",
            "runtime_config",
        )
    ),
    "LOHA": frozenset((*_ALL, "init_weights", "module_dropout", "rank_dropout", "use_effective_conv2d")),
    "LOKR": frozenset(
        (
            *_ALL,
            "decompose_both",
            "decompose_factor",
            "init_weights",
            "module_dropout",
            "rank_dropout",
            "rank_dropout_scale",
            "use_effective_conv2d",
        )
    ),
    "OFT": frozenset((*_ALL, "block_share", "init_weights", "module_dropout", "oft_block_size", "r")),
    "DEFT": frozenset((*_ALL, "deft_dropout", "init_scale", "init_weights", "para")),
}
# Fields that the readers compute with.
_UNDERSTOOD: dict[str, frozenset[str]] = {
    "LORA": frozenset(
        (
            "alpha_pattern",
            "init_lora_weights",
            "lora_alpha",
            "r",
            "rank_pattern",
            "use_dora",
            "use_rslora",
        )
    ),
    "LOHA": frozenset(("alpha", "alpha_pattern", "r", "rank_pattern")),
    "LOKR": frozenset(("alpha", "alpha_pattern", "r", "rank_pattern")),
    "OFT": frozenset(("coft", "eps", "num_cayley_neumann_terms", "use_cayley_neumann")),
    "DEFT": frozenset(("alpha", "decomposition_method", "r")),
}
_TRANSPOSED = "which is for transposed weights, and no image model here has them"
_NO_LAYER = "and no image model here has such layers"
# Fields that must be off: "peft" where PEFT merges it, else why it is not read.
_OFF: dict[str, dict[str, str]] = {
    "LORA": {
        "alora_invocation_tokens": "which acts on the tokens of a text and cannot be merged into weights",
        "arrow_config": _ROUTER,
        "enable_lora": f"which is for merged linear layers of old GPT models, {_NO_LAYER}",
        "fan_in_fan_out": _TRANSPOSED,
        "kasa_config": "peft",
        "layer_replication": "which repeats layers of the model",
        "megatron_config": f"which is for Megatron's parallel layers, {_NO_LAYER}",
        "monteclora_config": "peft",
        "target_parameters": "peft",
        "trainable_token_indices": "which changes the embeddings of single words",
        "use_bdlora": "peft",
        "use_qalora": "peft",
        "velora_config": "peft",
    },
    "LOHA": {},
    "LOKR": {},
    "OFT": {"fan_in_fan_out": _TRANSPOSED},
    "DEFT": {"fan_in_fan_out": _TRANSPOSED},
}
_ADVICE = "merge it into its base with PEFT and use Extract Adapter on the two models"

# Starts of a LoRA that leave the base as it is, those that PEFT repeats on the base that it is given, and the others.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
_REPEATED_STARTS = ("pissa", "olora")
_LOST_STARTS = {
    "pissa_niter": "starts from a random decomposition",
    "corda": "starts from data",
    "lora_ga": "starts from gradients",
    "loftq": "was trained on a base that it had quantised",
}

# Of the series of an OFT; PEFT's default is 5.
_TERMS = 100


def kind_of(record: Mapping[str, Any]) -> str:
    """The peft_type; a record without one is a LoRA's if it has lora_alpha, else a DEFT's."""
    kind = record.get("peft_type")
    if kind is None:
        return "LORA" if "lora_alpha" in record else "DEFT"
    return kind if isinstance(kind, str) else str(kind)


def known_fields(kind: str) -> set[str]:
    """The fields that a record of one of COMPUTED_TYPES may have."""
    return {"bias", *_HARMLESS[kind], *_UNDERSTOOD[kind], *_OFF[kind]}


def reading_of(record: Mapping[str, Any]) -> str:
    """The program that computes an adapter with this record: "own", this pack, or "peft", PEFT itself.

    Raises ValueError, its message to be put after the file's name: what is not read, and what to do.
    """
    kind = kind_of(record)
    if kind in MERGEABLE:
        return "peft"
    if kind not in COMPUTED_TYPES:
        raise ValueError(_not_read(kind))
    reading = "own"
    for field, value in record.items():
        if field in _HARMLESS[kind] or field in _UNDERSTOOD[kind] or not value:
            continue
        if field == "bias":
            if value not in ("none", "all", f"{kind.lower()}_only"):
                raise ValueError(f"has the field bias = {_shown(value)} in its record, which this pack does not know")
        elif field not in _OFF[kind]:
            if not _is_default(kind, field, value):
                raise ValueError(
                    f"has the field {_shown(field)} = {_shown(value)} in its record, which this pack does not know "
                    "and may "
                    f"change the result: update this pack, or {_ADVICE}"
                )
        elif _OFF[kind][field] == "peft":
            reading = "peft"
        else:
            raise ValueError(f"has the field {field} in its record, {_OFF[kind][field]}")
    _check_values(record)
    if kind == "LORA" and _start_is_repeated(record.get("init_lora_weights", True)):
        return "peft"
    return reading


def _not_read(kind: str) -> str:
    reason = _CANNOT.get(kind)
    if reason is None:
        return (
            f"holds a PEFT adapter of type {_shown(kind)}, which this pack does not know: update the pack, or {_ADVICE}"
        )
    return f"holds a PEFT adapter of type {kind}, {reason}"


def _start_is_repeated(start: Any) -> bool:
    """Whether init_lora_weights changes the base in a way that PEFT repeats. Raises ValueError for other changes."""
    if start is None or isinstance(start, bool):
        return False
    name = start.lower() if isinstance(start, str) else ""
    if name in _PLAIN_STARTS:
        return False
    if name in _REPEATED_STARTS:
        return True
    for begin, reason in _LOST_STARTS.items():
        if name.startswith(begin):
            raise ValueError(
                f"has init_lora_weights = {_shown(start)} in its record: it {reason}, and what that changed in the "
                "base is not in the file. Save it with path_initial_model_for_weight_conversion, which makes it a "
                f"plain LoRA, or {_ADVICE}"
            )
    raise ValueError(
        f"has init_lora_weights = {_shown(start)} in its record, which this pack does not know and may change the "
        "base: "
        f"update this pack, or {_ADVICE}"
    )


def _check_values(record: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers that are none, and for patterns that cannot be matched."""
    for field in ("r", "alpha", "lora_alpha", "eps", "num_cayley_neumann_terms"):
        _check_number(field, record.get(field))
    if kind_of(record) != "OFT":
        _check_number("r", record.get("r"), positive=True)
    if (record.get("num_cayley_neumann_terms") or 0) > _TERMS:
        raise ValueError(f"has num_cayley_neumann_terms in its record, which is more than {_TERMS}")
    projector = record.get("decomposition_method")
    if not isinstance(projector, (str, type(None))):
        raise ValueError(f"has decomposition_method = {_shown(projector)} in its record, but a name is needed")
    for field in ("coft", "use_cayley_neumann", "use_dora", "use_rslora"):
        if not isinstance(record.get(field), (bool, type(None))):
            raise ValueError(f"has {field} = {_shown(record[field])} in its record, but true or false is needed")
    for field in ("alpha_pattern", "rank_pattern"):
        patterns = record.get(field) or {}
        if not isinstance(patterns, dict):
            raise ValueError(f"has {field} = {_shown(patterns)} in its record, but an object is needed")
        for pattern, value in patterns.items():
            _check_number(f"{field} of {_shown(pattern)}", value, positive=field == "rank_pattern")
            layer_patterns.check(field, pattern)


def _check_number(field: str, value: Any, *, positive: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30 or math.isnan(value):
        raise ValueError(f"has {field} = {_shown(value)} in its record, but a number is needed")
    if positive and value <= 0:
        raise ValueError(f"has {field} = {_shown(value)} in its record, but a positive number is needed")


def _is_default(kind: str, field: str, value: Any) -> bool:
    """Whether the PEFT that is installed knows the field and gives it this value by itself."""
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError:
        return False
    config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]()  # its keys are strings, too
    return hasattr(config, field) and getattr(config, field) == value


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
