"""The fields that a record of each of PEFT's tuners has, their valid values, and their values for one layer.

A record is checked with them before PEFT sees it. Compared with `peft/tuners/*/config.py` of PEFT 0.21.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import layer_patterns

# The fields of the record that the change depends on. PEFT gets these and no others.
FIELDS: dict[str, tuple[str, ...]] = {
    "ADALORA": ("init_r", "lora_alpha", "rank_pattern"),
    "ADAMSS": (
        "init_weights",
        "num_subspaces",
        "r",
        "random_seed",
        "subspace_rank",
        "svd_threshold",
        "use_dynamic_rank",
    ),
    "BEFT": (),
    "BOFT": ("boft_block_num", "boft_block_size", "boft_n_butterfly_factor"),
    "C3A": ("block_size", "block_size_pattern"),
    "DELORA": ("r", "rank_pattern"),
    "FOURIERFT": ("n_frequency", "n_frequency_pattern", "random_loc_seed", "scaling"),
    "FROD": ("save_projection", "sparse_rate"),
    "GLORA": ("config_A_B", "config_C", "config_D_E", "r"),
    "GRALORA": ("alpha", "gralora_k", "hybrid_r", "r"),
    "HIRA": ("r", "rank_pattern"),
    "HRA": ("apply_GS", "r"),
    "IA3": ("feedforward_modules",),
    "LN_TUNING": (),
    "LORA": (
        "alpha_pattern",
        "init_lora_weights",
        "kasa_config",
        "lora_alpha",
        "lora_bias",
        "monteclora_config",
        "r",
        "rank_pattern",
        "target_parameters",
        "use_bdlora",
        "use_dora",
        "use_rslora",
        "velora_config",
    ),
    "MISS": ("init_weights", "mini_r", "r"),
    "OSF": (),
    "PEANUT": ("act_fn", "depth", "r", "scaling"),
    "PSOFT": (
        "ab_svd_init",
        "cayley_neumann_eps",
        "num_cayley_neumann_terms",
        "psoft_alpha",
        "psoft_mag_a",
        "psoft_mag_b",
        "psoft_orth",
        "psoft_svd",
        "psoft_svd_lowrank_niter",
        "r",
        "random_seed",
        "use_cayley_neumann",
    ),
    "PVERA": ("projection_prng_key", "r", "save_projection"),
    "RANDLORA": ("projection_prng_key", "r", "randlora_alpha", "save_projection", "sparse", "very_sparse"),
    "ROAD": ("group_size", "variant"),
    "SHIRA": ("r",),
    "SUPERTUNING": ("lora_alpha", "r", "save_precomputed_indices", "select_top", "sparsity"),
    "TINYLORA": ("projection_seed", "r", "save_projection", "u", "weight_tying"),
    "UNILORA": ("r", "save_indices", "theta_d_length"),
    "VBLORA": ("num_vectors", "r", "save_only_topk_weights", "topk", "vector_length"),
    "VERA": ("projection_prng_key", "r", "save_projection"),
    "WAVEFT": (
        "n_frequency",
        "n_frequency_pattern",
        "proportional_parameters",
        "random_loc_seed",
        "scaling",
        "use_idwt",
        "wavelet_family",
    ),
}

# Fields that are about training, about what the tensors say themselves, or about a start that the tensors replace.
_HARMLESS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "d_initial",
        "delora_lambda",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "generator_seed",
        "inference_mode",
        "init_logits_std",
        "init_ia3_weights",
        "init_theta_d_bound",
        "init_v_bound",
        "init_vector_bank_bound",
        "init_weights",
        "init_lora_weights",
        "lambda_pattern",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "merge_weights",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "progressbar",
        "proj_seed",
        "qalora_group_size",
        "random_seed",
        "regularization_alpha",
        "revision",
        "runtime_config",
        "runtime_offload_base_weight",
        "sample_at_inference",
        "target_modules",
        "task_type",
        "use_qalora",
        "mask_type",
        "projection_prng_key",
        "effective_rank",
        "target_svd_config",
        "use_rslora",
        "rank_dropout",
        "module_dropout",
        # AdaLoRA's and AdaMSS' ways to a rank, which the tensors have already.
        "target_r",
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "total_step",
        "use_asa",
        "asa_target_subspaces",
        "init_warmup",
        "final_warmup",
        "mask_interval",
        "asa_importance_beta",
        "asa_uncertainty_beta",
        "asa_schedule_exponent",
    )
)

# The patterns by layer names, and the field that they take the place of.
_PATTERNS = {
    "rank_pattern": "r",
    "alpha_pattern": "lora_alpha",
    "block_size_pattern": "block_size",
    "n_frequency_pattern": "n_frequency",
}

# What a record may make PEFT repeat.
_LIMITS = {"num_cayley_neumann_terms": 100, "psoft_svd_lowrank_niter": 100, "num_subspaces": 10000, "depth": 1000}

# Fields that are numbers, whatever the tensors are.
_NUMBERS = (
    "alpha",
    "lora_alpha",
    "projection_seed",
    "psoft_alpha",
    "randlora_alpha",
    "scaling",
    "sparse_rate",
    "sparsity",
    "weight_tying",
)


def knows(kind: str, field: str) -> bool:
    """Whether a field of a record is computed with, or is harmless whatever its value."""
    if (kind, field) == ("OSF", "rank_pattern"):
        return True  # its tensors have their ranks
    return field in FIELDS[kind] or field in _HARMLESS or field.endswith("_dropout")


def check_record(kind: str, record: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError, its message to be put after the file's name, for fields that may change the result.

    `defaults` are the fields of the PEFT that is installed, with their defaults.
    """
    for field, value in record.items():
        if not value or knows(kind, field):
            continue
        if field == "fan_in_fan_out":
            raise ValueError("is for transposed weights (fan_in_fan_out), which no image model here has")
        if field not in defaults or defaults[field] != value:
            raise ValueError(
                f"has the field {field} = {shown(value)} in its record, which this pack does not know and may change "
                "the "
                "result: update this pack, or merge it into its base with PEFT and use Extract Adapter on the models"
            )
    check_values(record)


def check_values(record: Mapping[str, Any]) -> None:
    """Raise ValueError for patterns that cannot be matched, and for numbers that are none or take too long."""
    for field in _PATTERNS:
        patterns = record.get(field) or {}
        if not isinstance(patterns, dict):
            raise ValueError(f"has {field} = {shown(patterns)} in its record, but an object is needed")
        for pattern in patterns:
            layer_patterns.check(field, pattern)
    feedforward = record.get("feedforward_modules")
    if isinstance(feedforward, str):
        layer_patterns.check("feedforward_modules", feedforward)
    for field, limit in _LIMITS.items():
        value = record.get(field)
        if value is not None and not (_is_number(value) and abs(value) <= limit):
            raise ValueError(f"has {field} = {shown(value)} in its record, but at most {limit} is read")
    for field in _NUMBERS:
        value = record.get(field)
        if value is not None and not (_is_number(value) and abs(value) < 1e30):
            raise ValueError(f"has {field} = {shown(value)} in its record, but a number is needed")


def layer_record(kind: str, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The record of one layer: patterns looked up by its module path, as PEFT does, and replaced by their values."""
    fields = {field: record[field] for field in FIELDS[kind] if field in record}
    for field, replaced in _PATTERNS.items():
        patterns = fields.pop(field, None) or {}
        if kind == "ADALORA":
            bits = next((value for key, value in patterns.items() if key in (f"{name}.lora_E", name)), None)
            fields |= {} if bits is None else {"kept": bits}
        else:
            for pattern, value in patterns.items():
                if layer_patterns.matches(field, pattern, name):
                    fields[replaced] = value
                    break
    if kind == "IA3":
        feedforward = fields.pop("feedforward_modules", None) or ()
        fields["feedforward"] = (
            layer_patterns.matches_fully("feedforward_modules", feedforward, name)
            if isinstance(feedforward, str)
            else any(name.endswith(str(end)) for end in feedforward)
        )
    if kind == "LORA":
        blocks = fields.pop("use_bdlora", None)
        if blocks:
            fields["blocks"] = count_of(blocks, "nblocks", "use_bdlora")
            for side in "ab":
                marks = blocks.get(f"target_modules_bd_{side}") or ()
                fields[f"blocks_{side}"] = any(str(mark) in name for mark in marks)
        parameters = fields.pop("target_parameters", None) or ()
        fields["is_parameter"] = any(f"{name}.weight".endswith(str(end)) for end in parameters)
    return fields


def count_of(record: Mapping[str, Any], field: str, where: str = "") -> int:
    """The whole number, from 1 on, in a field. Raises ValueError for other values; `where` is the record's field."""
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        place = f" of {where}" if where else ""
        raise ValueError(f"the record has {field} = {shown(value)}{place}, but a number of at least 1 is needed")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value  # no NaN


def shown(value: Any) -> str:
    """The value as text for a message, at most 60 characters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
