"""The tensors that a layer of each of PEFT's tuners has, and their sizes.

A file is checked with them before PEFT sees it: PEFT keeps a random start where a tensor is missing, and makes tensors
of any size that a record asks for. Compared with `peft/tuners/*/layer.py` of PEFT 0.21.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from .peft_fields import count_of, shown

# What the values of a record may lead to where they are of another kind than PEFT writes.
UNUSABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError)

# What the tensors of a tuner begin with, where it is not its own name.
_BEGINNINGS = {"LORA": "lora_", "ADALORA": "lora_"}

# Tensors that all layers of a file share, with sizes; ">" means at least.
_SHARED: dict[str, dict[str, str]] = {
    "PVERA": {"pvera_A": "2r >i", "pvera_B": ">o r"},
    "RANDLORA": {"randlora_A": "r 1 >min", "randlora_B": ">max * r"},
    "UNILORA": {"unilora_theta_d": "theta_d_length"},
    "VBLORA": {"vblora_vector_bank": "num_vectors vector_length"},
    "VERA": {"vera_A": "r >i", "vera_B": ">o r"},
}


def beginning_of(kind: str) -> str:
    """The beginning of the names of a tuner's tensors in their layer."""
    return _BEGINNINGS.get(kind, {"PVERA": "pvera_"}.get(kind, f"{kind.lower()}_"))


def shared_of(kind: str, record: Mapping[str, Any]) -> dict[str, str]:
    """The tensors that all layers share, by name, with their sizes; without those that PEFT draws again."""
    if record.get("save_projection", True) is False:
        return {}
    return _SHARED.get(kind, {})


def tensors_of(kind: str, record: Mapping[str, Any], *, bias: bool | None) -> dict[str, str]:
    """The tensors of a layer by name, with their sizes; `bias` says whether the layer has one, None if not known.

    Sizes are numbers, letters (o outputs, i inputs with the kernel, r the rank, other names of `_values`), one divided
    by another, or * for any. A "~" before them means that the tensor is taken as a matrix or a vector, a "?" that it
    may be missing.
    """
    if kind == "LORA":
        return _of_lora(record)
    if kind == "GLORA":
        return _of_glora(record, bias)
    if kind == "MISS":
        shape = {"bat": "o/r r r", "mini": "r mini_r"}.get(str(record.get("init_weights")), "r o")
        return {"miss_block": shape}
    if kind == "GRALORA":
        tensors = {"gralora_A": "gralora_k i/gralora_k r", "gralora_B": "gralora_k r o/gralora_k"}
        if record.get("hybrid_r"):
            tensors |= {"gralora_A_general.weight": "hybrid_r i", "gralora_B_general.weight": "o hybrid_r"}
        return tensors
    if kind == "PEANUT":
        sides, depth = ("encoders", "decoders"), range(int(record["depth"]))
        inner = [f"peanut_{side}.{index}.weight" for side in sides for index in depth]
        return {"peanut_A.weight": "r o", "peanut_B.weight": "o r"} | dict.fromkeys(inner, "r r")
    if kind == "PSOFT":
        tensors = {"psoft_R.weight": "triangle" if record.get("psoft_orth") else "r r"}
        vectors = [f"psoft_R.vector_{side}" for side in "ab" if record.get(f"psoft_mag_{side}")]
        return tensors | dict.fromkeys(vectors if record.get("psoft_orth") else [], "r")
    if kind == "SUPERTUNING":
        tensors = {"supertuning_values": "chosen"}
        if record.get("save_precomputed_indices"):
            tensors["supertuning_indices"] = "chosen"
        if record.get("r") is not None:
            tensors |= {"supertuning_lora_A.weight": "r i", "supertuning_lora_B.weight": "o r"}
        return tensors
    if kind == "TINYLORA":
        tensors = {"tinylora_A": "m i", "tinylora_B": "o m"}
        return tensors | {"tinylora_P": "u m m"}
    if kind == "VBLORA" and record.get("save_only_topk_weights"):
        logits = {"vblora_logits_A": "r i/vector_length", "vblora_logits_B": "o/vector_length r"}
        tensors = {f"{name}_topk_indices": f"{sizes} topk" for name, sizes in logits.items()}
        return tensors | {f"{name}_topk_weights": f"{sizes} topk-1" for name, sizes in logits.items()}
    return _TENSORS[kind]


_TENSORS: dict[str, dict[str, str]] = {
    "ADALORA": {"lora_A": "kept i", "lora_B": "o kept", "lora_E": "kept 1"},
    "BEFT": {"beft_bias": "1 o"},
    "BOFT": {"boft_R": "boft_n_butterfly_factor blocks block block", "boft_s": "~ o"},
    "C3A": {"c3a_kernel": "o/block_size i/block_size block_size"},
    "DELORA": {"delora_A": "r i", "delora_B": "o r", "delora_lambda": "1", "delora_w_norm": "i"},
    "FOURIERFT": {"fourierft_spectrum": "n_frequency"},
    "FROD": {"frod_lambda_l": "i", "frod_lambda_s_values": "sparse"},
    "HIRA": {"hira_A": "~ r i", "hira_B": "~ o r"},
    "HRA": {"hra_u": "i r"},
    "IA3": {"ia3_l": "~ scaled"},
    "OSF": {"osf_svd_params.U_low": "o low", "osf_svd_params.S_low": "low", "osf_svd_params.V_low": "low i"},
    "PVERA": {"pvera_lambda_b": "o", "pvera_lambda_d": "2r"},
    "RANDLORA": {"randlora_lambda": "r bases", "randlora_gamma": "bases min"},
    "ROAD": {"road_theta": "angles", "road_alpha": "angles"},
    "SHIRA": {"shira_weight": "sparse", "shira_indices": "2 sparse"},
    "UNILORA": {
        "unilora_indices_A": "r i",
        "unilora_indices_B": "o r",
        "unilora_scales_A": "r i",
        "unilora_scales_B": "o r",
    },
    "VBLORA": {"vblora_logits_A": "r i/vector_length num_vectors", "vblora_logits_B": "o/vector_length r num_vectors"},
    "VERA": {"vera_lambda_b": "o", "vera_lambda_d": "r"},
    "WAVEFT": {"waveft_spectrum": "n_frequency"},
}


def _of_lora(record: Mapping[str, Any]) -> dict[str, str]:
    tensors = {
        "lora_A.weight": "~ r i/blocks" if record.get("blocks_a") else "~ r i",
        "lora_B.weight": "~ o r/blocks" if record.get("blocks_b") else "~ o r",
    }
    if record.get("lora_bias"):
        tensors["lora_B.bias"] = "o"
    if record.get("use_dora"):
        tensors["lora_magnitude_vector"] = "~ o"
    if record.get("kasa_config"):
        tensors["lora_diag"] = "r"
    if record.get("velora_config"):
        tensors["lora_velora_embed"] = "? *"
    if record.get("monteclora_config"):
        sampler = "lora_monteclora_sampler"
        tensors |= {
            f"{sampler}.std_prior": "r",
            f"{sampler}.expert_weights_prior": "samples",
            f"{sampler}.gaussian_var_prior": "r r",
            f"{sampler}.expert_weights": "samples",
        }
    return tensors


def _of_glora(record: Mapping[str, Any], bias: bool | None) -> dict[str, str]:
    tensors: dict[str, str] = {}
    mark = "?" if bias is None else ""
    parts = [(side, record["config_A_B"], "o", "i", "") for side in "AB"]
    if bias is not False:
        parts += [("C", record["config_C"], "i", "1", mark)]
        parts += [(side, record["config_D_E"], "o", "", mark) for side in "DE"]
    for side, form, rows, columns, optional in parts:
        if form == "lora" and columns:
            tensors |= {f"glora_{side}.Xd": f"{optional} {rows} r", f"glora_{side}.Xu": f"{optional} r {columns}"}
        elif form == "vector":
            tensors[f"glora_{side}.X"] = f"{optional} {rows}{' 1' if columns else ''}"
        elif form == "constant" and side != "C":
            tensors[f"glora_{side}.X"] = f"{optional} 1"
    return tensors


# ------------------------------------------------------------------------------------------------------------ checking


def check_names(kind: str, record: Mapping[str, Any], names: Collection[str], *, bias: bool | None) -> None:
    """Raise ValueError for the first tensor of a layer that is missing or does not belong to it."""
    if kind == "ADAMSS":
        count = sum(name.startswith("adamss_A.") for name in names)
        required = {f"adamss_{side}.{index}" for side in "AB" for index in range(count)} | {"adamss_newB"}
        optional: set[str] = set()
    else:
        sizes = tensors_of(kind, record, bias=bias)
        required = {name for name, text in sizes.items() if not text.startswith("?")}
        optional = set(sizes) - required
    missing = sorted(required - set(names))
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    strange = sorted(set(names) - required - optional)
    if strange:
        raise ValueError(f"{strange[0]} does not belong to {kind} with this record")


def check_sizes(
    kind: str,
    record: Mapping[str, Any],
    group: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    *,
    out: int | None = None,
    inputs: int | None = None,
    bias: bool | None = None,
) -> None:
    """Raise ValueError for the first tensor whose size is not that of the record, or of a weight [out, inputs]."""
    if kind == "ADAMSS":
        _check_adamss(record, group, out, inputs, bias)
        return
    values = _values(kind, record, group, out, inputs)
    sizes = {**tensors_of(kind, record, bias=bias), **shared_of(kind, record)}
    for name, text in sizes.items():
        tensor = group.get(name, shared.get(name))
        if tensor is not None:
            _check(name, tensor, text.removeprefix("?").strip(), values)
    _check_indices(kind, group, shared, out, inputs)


# Tensors that may hold whole numbers: places and sizes. PEFT takes whole numbers as factors without a word.
_WHOLE = re.compile(r"indices|_size")


def _check(name: str, tensor: Tensor, text: str, values: Mapping[str, int]) -> None:
    if not tensor.is_floating_point() and not _WHOLE.search(name):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name} is of {kind}, but floating-point numbers are needed")
    actual = list(tensor.shape)
    if text.startswith("~"):
        text = text.removeprefix("~").strip()
        if len(text.split()) == 1:
            actual = [tensor.numel()]
        elif tensor.ndim >= 2:
            actual = [len(tensor), math.prod(tensor.shape[1:])]
    expected = [(token.startswith(">"), _size(token.removeprefix(">"), values)) for token in text.split()]
    fits = len(actual) == len(expected) and all(
        size is None or (have >= size if least else have == size)
        for have, (least, size) in zip(actual, expected, strict=True)
    )
    if not fits:
        shown = ", ".join("any" if size is None else f"{'at least ' * least}{size}" for least, size in expected)
        raise ValueError(f"{name} has shape {list(tensor.shape)}, but [{shown}] is needed")


def _size(token: str, values: Mapping[str, int]) -> int | None:
    """The size that a token means, None if it is not known yet."""
    if token == "*":
        return None
    if token.isdigit():
        return int(token)
    if token.endswith("-1"):
        return values[token[:-2]] - 1
    whole, _, part = token.partition("/")
    if whole not in values or not part:
        return values.get(whole)
    if values[part] < 1 or values[whole] % values[part]:
        raise ValueError(f"{values[whole]} cannot be divided into {part} = {values[part]}")
    return values[whole] // values[part]


def _values(
    kind: str, record: Mapping[str, Any], group: Mapping[str, Tensor], out: int | None, inputs: int | None
) -> dict[str, int]:
    """The numbers that the letters in sizes mean for a layer, without those that are not known."""
    named = (
        "r",
        "block_size",
        "n_frequency",
        "gralora_k",
        "hybrid_r",
        "mini_r",
        "u",
        "theta_d_length",
        "num_vectors",
        "vector_length",
        "topk",
        "boft_n_butterfly_factor",
        "blocks",
    )
    optional = ("hybrid_r",) if kind != "SUPERTUNING" else ("r",)
    values = {
        name: count_of(record, name) for name in named if name in record and (record[name] or name not in optional)
    }
    values |= {name: size for name, size in (("o", out), ("i", inputs)) if size is not None}
    r = values.get("r", 0)
    values |= {"2r": 2 * r, "triangle": r * (r - 1) // 2}
    has_shape = out is not None and inputs is not None
    if has_shape:
        least = min(out or 0, inputs or 0)
        values |= {"min": least, "max": max(out or 0, inputs or 0), "m": min(r, least)}
        if r:
            values |= {"bases": -(-least // r), "sparse": r * ((out or 0) + (inputs or 0))}
    if kind == "ADALORA":
        bits = record.get("kept")
        values["kept"] = count = count_of(record, "init_r")
        if bits is not None:
            if not isinstance(bits, list) or len(bits) != count or any(bit not in (True, False) for bit in bits):
                raise ValueError(f"rank_pattern does not have {count} entries, true or false")
            values["kept"] = sum(bits)
    elif kind == "BOFT":
        values |= _boft(record, inputs)
    elif kind == "OSF":
        values["low"] = group["osf_svd_params.S_low"].numel()
    elif kind == "IA3":
        tensor = group["ia3_l"]
        rows = tensor.ndim == 2 and tensor.shape[1] == 1 or tensor.ndim != 2 and not record.get("feedforward")
        if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] == 1:
            rows = not record.get("feedforward")
        scaled = out if rows else inputs
        if scaled is not None and tensor.ndim != 2 and not rows:
            scaled = tensor.numel()  # of a convolution, one for a channel: PEFT's own check
        values |= {} if scaled is None else {"scaled": scaled}
    elif kind == "ROAD" and out is not None:
        parts = {"road_1": 1, "road_2": 2, "road_4": 4}.get(str(record.get("variant")))
        if parts is None or out % 2:
            raise ValueError(f"the variant {record.get('variant')} has no angles for {out} outputs")
        values["angles"] = out * parts // 2
    elif kind == "SUPERTUNING" and has_shape:
        values["chosen"] = int((out or 0) * (inputs or 0) * (1 - float(record["sparsity"])))
    elif kind == "FROD" and inputs is not None:
        rate = float(record["sparse_rate"])
        values["sparse"] = max(min(int(inputs * inputs * rate), inputs * (inputs - 1)), int(rate > 0 and inputs > 1))
    elif kind == "WAVEFT" and record.get("proportional_parameters"):
        values["n_frequency"] = group["waveft_spectrum"].numel()
    elif kind == "LORA" and record.get("monteclora_config"):
        values["samples"] = count_of(record["monteclora_config"], "num_samples", "monteclora_config")
    return values


def _boft(record: Mapping[str, Any], inputs: int | None) -> dict[str, int]:
    count, size = record.get("boft_block_num") or 0, record.get("boft_block_size") or 0
    sizes = {name: value for name, value in (("blocks", count), ("block", size)) if value}
    for value in sizes.values():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"the size of a block is {shown(value)}")
    if inputs is not None and len(sizes) == 1:
        given = next(iter(sizes.values()))
        if inputs % given:
            raise ValueError(f"{inputs} inputs cannot be divided into {given}")
        sizes["block" if count else "blocks"] = inputs // given
    return sizes


def _check_adamss(
    record: Mapping[str, Any], group: Mapping[str, Tensor], out: int | None, inputs: int | None, bias: bool | None
) -> None:
    rank = count_of(record, "r")
    for field in ("num_subspaces", "subspace_rank"):
        count_of(record, field)
    width = None if inputs is None or bias is None else inputs + bias
    if rank > len(group["adamss_newB"]) or (width is not None and list(group["adamss_newB"].shape) != [rank, width]):
        raise ValueError(f"adamss_newB has shape {list(group['adamss_newB'].shape)}, but [{rank}, inputs] is needed")
    rows = 0
    for index in range(sum(name.startswith("adamss_A.") for name in group)):
        A, B = group[f"adamss_A.{index}"], group[f"adamss_B.{index}"]
        if A.ndim != 2 or B.ndim != 2 or A.shape[1] != rank or B.shape[1] != len(A):
            raise ValueError(f"adamss_A.{index} and adamss_B.{index} have shapes {list(A.shape)} and {list(B.shape)}")
        rows += len(B)
    if out is not None and rows > out:
        raise ValueError(f"the adamss_B have {rows} rows, but this weight has {out}")


# Tensors of places, and how many places there are for each row of them.
def _check_indices(
    kind: str, group: Mapping[str, Tensor], shared: Mapping[str, Tensor], out: int | None, inputs: int | None
) -> None:
    limits: dict[str, list[int]] = {}
    if kind == "UNILORA":
        places = shared["unilora_theta_d"].numel()
        limits = {"unilora_indices_A": [places], "unilora_indices_B": [places]}
    elif kind == "VBLORA":
        places = len(shared["vblora_vector_bank"])
        limits = {name: [places] for name in group if name.endswith("_topk_indices")}
    elif out is not None and inputs is not None:
        limits = {"supertuning_indices": [out * inputs], "shira_indices": [out, inputs]}
    for name, sizes in limits.items():
        if name not in group or not group[name].numel():
            continue
        rows = group[name] if len(sizes) > 1 else group[name].reshape(1, -1)
        for row, size in zip(rows.double(), sizes, strict=True):  # fp8 has no smallest one
            if float(row.min()) < 0 or float(row.max()) >= size:
                raise ValueError(f"{name} has indices up to {int(row.max())}, but there are {size}")
