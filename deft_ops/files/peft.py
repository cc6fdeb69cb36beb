"""PEFT's files, read: the folder, its bare weights file, and diffusers' form with the record in the header.

DEFT, PaRa, LoRA (rsLoRA and DoRA among it), LoHa, LoKr and OFT are read; peft_writer.py writes.

PEFT stores P and R per layer and one configuration for all (peft/tuners/deft, 0.20 and later). Its qr takes Q as torch
returns it, so R follows the signs of that factorisation. `alpha` scales the injection only, by alpha / layer rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter import Adapter, from_layers
from ..projectors import project, raw_qr
from . import layer_patterns, peft_kinds, peft_projector, peft_records, safe
from .source import PEFT_HEADER, PEFT_PREFIX, Source

NAME = "peft"
_COMFYUI = "diffusion_model."  # what PEFT never writes

_LORA_PARTS = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
}
_LORA_BIAS = "lora_B.bias"
_MAGNITUDE = "lora_magnitude_vector"
_HADAMARD = tuple(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
_KRONECKER = tuple(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
_PARTS = ("deft_P", "deft_R", *_LORA_PARTS, _LORA_BIAS, _MAGNITUDE, *_HADAMARD, *_KRONECKER, "oft_R")
# The name of the adapter within PEFT's model, which some programs leave in, and endings that come and go.
_LORA_SPELLING = re.compile(r"\.(lora_A|lora_B)(?:\.(?!weight$|bias$)[^.]+)?(?:\.(weight|bias))?$")
_SPELLINGS = (
    re.compile(rf"\.(deft_P|deft_R|{_MAGNITUDE}|hada_\w+|lokr_\w+)(?:\.(?!weight$)[^.]+)?(?:\.weight)?$"),
    re.compile(r"\.(oft_R)(?:(?:\.[^.]+)?\.weight)?$"),
    re.compile(r"(?:\.modules_to_save(?:\.[^.]+)?|\.base_layer)\.(weight|bias)$"),
)
# What is assumed without a record.
_ASSUMED = {"oft_R": "its settings: PEFT's defaults are assumed", "lora_A.weight": "its alpha: the rank is assumed"}
# What a part becomes, where it gets another name.
_RENAMED = {
    "lora_A.weight": ("lora_down.weight", "dora_down"),
    "lora_B.weight": ("lora_up.weight", "dora_up"),
    "lora.down.weight": ("lora_down.weight",),
    "lora.up.weight": ("lora_up.weight",),
    _LORA_BIAS: ("diff_b",),
    _MAGNITUDE: ("dora_magnitude",),
    "oft_R": ("oft_rotation",),
}
# The base's own values of a module in modules_to_save, which bias = "all" saves beside the trained ones.
_UNUSED = re.compile(r"\.original_module\.(weight|bias)$")
# Tensors that end in .weight or .bias and are some adapter's part, not a layer's own.
_OF_AN_ADAPTER = re.compile(r"(^|[._])(lora|hada|lokr|oft|boft|ia3|deft|glora|dora|vera)([._]|$)")


def matches(source: Source) -> bool:
    """Whether the file has PEFT's own tensors, or tensors that others write too with PEFT's record or names."""
    if any(_plain(key).endswith((".deft_P", f".{_MAGNITUDE}")) for key in source.tensors):
        return True
    if source.is_peft_weights and source.config is not None and "peft_type" in source.config:
        return True
    has_record = PEFT_HEADER in source.metadata or source.is_peft_weights
    return any(_part_of(_plain(key)) for key in source.tensors if has_record or key.startswith(PEFT_PREFIX))


def read(source: Source, projector: str = "auto", base: peft_projector.WeightOf | None = None) -> Adapter:
    """The adapter under this pack's and ComfyUI's suffixes; layer names as in the file without "base_model.model.".

    Projector, alpha and the rest come from the record (header first, then adapter_config.json). Without a record the
    projector is `projector`, or, if that is "auto", what the weights of `base` show, alpha is the rank, and
    metadata["note"] says so. A `projector` other than "auto" overrides the record. Raises ValueError for records that
    are not read here (see peft_records), a layer that is there twice, and a projector that nothing shows.
    """
    records = records_of(source)
    for component, record in records.items():
        try:
            reading = peft_records.reading_of(record)
        except ValueError as error:
            raise ValueError(f"{source.path} {error}{f' (of its part {component})' if component else ''}.") from error
        if reading != "own":
            raise ValueError(
                f"{source.path} holds a PEFT adapter of type {peft_records.kind_of(record)} that only PEFT itself "
                "computes: choose auto as the file format."
            )
    tensors: dict[str, Tensor] = {}
    spelled: dict[str, str] = {}
    for key, tensor in source.tensors.items():
        plain = _plain(key).removeprefix(PEFT_PREFIX)
        if _UNUSED.search(key):
            continue
        if plain in tensors:
            if ".modules_to_save." in f"{key} {spelled[plain]}" and torch.equal(tensors[plain], tensor):
                continue  # bias = "all" saves those of modules_to_save once more
            raise ValueError(f"{source.path} has {plain} twice, as {spelled[plain]} and {key}: remove one of them.")
        if _part_of(plain) and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{source.path} has {key} of {kind}, but floating-point numbers are needed.")
        tensors[plain], spelled[plain] = tensor, key
    is_of_peft = bool(records) or any(key.startswith(PEFT_PREFIX) for key in source.tensors)
    source = replace(source, tensors=tensors)
    if any(key.endswith(".deft_P") for key in tensors):
        adapter = _read_deft(source, records, projector, base, spelled)
    else:
        adapter = _read_others(source, records, spelled)
    if is_of_peft:
        _read_replaced(adapter, spelled, source.path)
    for key in adapter:
        spelled.setdefault(key, key)
    adapter.spelled = {key: spelled[key] for key in adapter if spelled[key] != key}
    return adapter


def _part_of(plain: str) -> str | None:
    return next((part for part in _PARTS if plain.endswith(f".{part}")), None)


def _plain(key: str) -> str:
    """The key without the adapter's name: "x.lora_A.default.weight" is "x.lora_A.weight"."""
    spelling_match = _LORA_SPELLING.search(key)
    if spelling_match is not None:
        return f"{key[: spelling_match.start()]}.{spelling_match[1]}.{spelling_match[2] or 'weight'}"
    for spelling in _SPELLINGS:
        spelling_match = spelling.search(key)
        if spelling_match is not None:
            return f"{key[: spelling_match.start()]}.{spelling_match[1]}"
    return key


def records_of(source: Source) -> dict[str, dict[str, Any]]:
    """The configurations by component prefix ("unet", "transformer"); "" holds for all layers."""
    if PEFT_HEADER not in source.metadata:
        return {} if source.config is None else {"": source.config}
    header = safe.parse_json(source.metadata[PEFT_HEADER], f"The record {PEFT_HEADER} in the header of {source.path}")
    if "r" in header or "peft_type" in header:
        return {"": header}
    records: dict[str, dict[str, Any]] = {}
    for key, value in header.items():
        component, dot, field = key.partition(".")
        if dot or value:
            records.setdefault(component if dot else "", {})[field or key] = value
    only = next(iter(records), "")
    if len(records) == 1 and not any(key.startswith(f"{only}.") for key in source.tensors):
        return {"": records[only]}
    return records


def _record_of(name: str, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return records.get(name.partition(".")[0], records.get("", {}))


def _read_replaced(adapter: Adapter, spelled: dict[str, str], path: Path) -> None:
    """Rename what is a layer's own weight or bias: modules_to_save and trained biases replace the base's."""
    layer_names = {plain.removesuffix(f".{part}") for plain in spelled if (part := _part_of(plain))}
    for key in list(adapter):
        name, _, part = key.rpartition(".")
        if part not in ("weight", "bias") or not name or _OF_AN_ADAPTER.search(key):
            continue
        if part == "weight" and name in layer_names:
            raise ValueError(
                f"{path} has {spelled[key]}, a weight of its own for a layer that it also has an adapter for: remove "
                "one of them."
            )
        value, replaced = adapter.pop(key), f"{name if part == 'weight' else key}.replaced"
        if part == "bias" and f"{name}.diff_b" in adapter:
            added = adapter.pop(f"{name}.diff_b")
            if value.shape != added.shape:
                raise ValueError(
                    f"{path} has {spelled[key]} of shape {list(value.shape)}, but {spelled[f'{name}.diff_b']} of "
                    f"{list(added.shape)}: save or download it again."
                )
            value = value.float() + added
        adapter[replaced], spelled[replaced] = value, spelled[key]


def _read_deft(
    source: Source,
    records: Mapping[str, dict[str, Any]],
    projector: str,
    base: peft_projector.WeightOf | None,
    spelled: dict[str, str],
) -> Adapter:
    result: dict[str, dict[str, Tensor]] = {}
    used: set[str] = set()
    projectors: set[str] = set()
    guess = reason = ""
    some_R = any(key.endswith(".deft_R") for key in source.tensors)
    for key, P in source.tensors.items():
        if not key.endswith(".deft_P"):
            continue
        if P.ndim != 2:
            raise ValueError(
                f"{source.path} has {spelled[key]} of shape {list(P.shape)}, but a matrix [out, rank] is needed."
            )
        name = key.removesuffix(".deft_P")
        record = _record_of(name, records)
        chosen = record.get("decomposition_method", "") if projector == "auto" else projector
        if not chosen:
            if not guess:
                guess, reason = _guess_projector(source, base)
            chosen = guess
        projectors.add(chosen)
        # Q as torch returns it: the R of the file belongs to these signs.
        try:
            Q, right = (raw_qr(P)[0], None) if chosen == "qr" else project(P, chosen)
        except ValueError as error:
            raise ValueError(f"{source.path}: {spelled[key]} has no projector: {error}") from error
        group = {"deft_Q": Q}
        if right is not None and right is not Q:
            group["deft_right"] = right
        if f"{name}.deft_R" in source.tensors:
            R = source.tensors[f"{name}.deft_R"]
            group["deft_R"] = R
            # A capped layer has a smaller rank and, as in PEFT, its own scale: alpha / its rank.
            alpha = record.get("alpha") or Q.shape[1]
            group["alpha"] = torch.tensor(float(alpha), dtype=torch.float32)
        elif not record.get("para", not some_R):
            raise ValueError(
                f"{source.path} has {spelled[key]} without the deft_R that belongs to it: save or download it again."
            )
        result[name] = {suffix: tensor.contiguous() for suffix, tensor in group.items()}
        spelled |= {f"{name}.deft_Q": spelled[key], f"{name}.deft_right": spelled[key]}
        used |= {key, f"{name}.deft_R"}
    adapter = from_layers(result)
    # With a record the alpha is the record's, as in PEFT.
    unread = [f"{name}.alpha" for name in result if records and f"{name}.alpha" in source.tensors]
    used |= set(unread)
    adapter.update({key: tensor for key, tensor in source.tensors.items() if key not in used})
    adapter.metadata["projector"] = "/".join(sorted(projectors))
    if unread:
        adapter.metadata["note"] = _unread([spelled[key] for key in unread])
    if guess:
        adapter.metadata["note"] = (
            f"{source.path.name} has no record of its projector and alpha: {guess} is assumed ({reason}), without "
            "alpha."
        )
    return adapter


def _guess_projector(source: Source, base: peft_projector.WeightOf | None) -> tuple[str, str]:
    """The projector of a file without a record, and the reason for it. Raises ValueError if nothing shows it."""
    names = [key.removesuffix(".deft_P") for key in source.tensors if key.endswith(".deft_P")]
    pairs = {
        name: (source.tensors[f"{name}.deft_P"], source.tensors[f"{name}.deft_R"])
        for name in names
        if f"{name}.deft_R" in source.tensors
    }
    projector = None if base is None else peft_projector.projector_of(pairs, base)
    if projector:
        return projector, "R is near its start from this base"
    if all(name.startswith(_COMFYUI) for name in names):
        return "qr", "as ComfyUI's Train LoRA writes with this pack"
    raise ValueError(
        f"{source.path} has no record of its projector (adapter_config.json beside it): choose relu, PEFT's default, "
        "or qr in the widget projector, whichever it was trained with."
    )


def _read_others(source: Source, records: Mapping[str, dict[str, Any]], spelled: dict[str, str]) -> Adapter:
    groups: dict[str, dict[str, Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for key, tensor in source.tensors.items():
        part = _part_of(key)
        if part is None:
            tensors[key] = tensor
        else:
            groups.setdefault(key.removesuffix(f".{part}"), {})[part] = tensor
    assumed = set()
    unread: list[str] = []
    for name, group in groups.items():
        alpha = tensors.get(f"{name}.alpha")
        try:
            layer = _layer(name, group, records, alpha if alpha is not None and alpha.numel() == 1 else None)
        except peft_kinds.BadTensor as error:
            raise ValueError(f"{source.path} has {spelled[f'{name}.{error.part}']} {error}.") from error
        except layer_patterns.Slow as error:
            raise ValueError(f"{source.path} {error}.") from error
        if records and alpha is not None:
            # The record's counts, as in diffusers. Where it is in a factor, ComfyUI's class would take the file's, too.
            if "alpha" not in layer:
                del tensors[f"{name}.alpha"]
            if "alpha" not in layer or not torch.equal(layer["alpha"].float(), alpha.float()):
                unread.append(spelled[f"{name}.alpha"])
        if not records and alpha is None:
            assumed.add(_ASSUMED["oft_R" if "oft_R" in group else "lora_A.weight"])
        tensors |= {f"{name}.{suffix}": tensor for suffix, tensor in layer.items()}
        for part in group:
            for suffix in _RENAMED.get(part, ()):
                spelled[f"{name}.{suffix}"] = spelled[f"{name}.{part}"]
    adapter = Adapter(tensors)
    if assumed:
        adapter.metadata["note"] = f"{source.path.name} has no record of {', and of '.join(sorted(assumed))}."
    if unread:
        adapter.metadata["note"] = _unread(unread)
    return adapter


def _unread(keys: list[str]) -> str:
    """The note about alphas beside a record."""
    more = ", ..." if len(keys) > 1 else ""
    return f"{len(keys)} alphas of the file are not used, because the record's are: {keys[0]}{more}."


def _layer(
    name: str, group: dict[str, Tensor], records: Mapping[str, dict[str, Any]], own_alpha: Tensor | None
) -> dict[str, Tensor]:
    """The tensors of one layer under the suffixes of the method that computes it; parts alone stay as they are.

    `own_alpha`: the file's alpha of the layer, which counts where there is no record. Raises BadTensor.
    """
    record = _record_of(name, records)
    if "oft_R" in group:
        return {"oft_rotation": peft_kinds.rotation(group["oft_R"], record)} | _without(group, "oft_R")
    complete = {"lora_up.weight", "lora_down.weight"} <= {_LORA_PARTS.get(part, part) for part in group}
    if not complete and any(part in group for part in (*_HADAMARD, *_KRONECKER)):
        if not records and own_alpha is not None:
            return group  # ComfyUI's own class knows how alpha and its rank belong together
        # Their own decomposition may have another rank than the record's, which is the one in the scale.
        rank = _pattern(name, "rank_pattern", record, records, "r", 1)
        if not rank:
            raise peft_kinds.BadTensor(next(iter(group)), "of rank 0 by its record, but a rank of 1 or more is needed")
        alpha = _pattern(name, "alpha_pattern", record, records, "alpha", rank)
        return peft_kinds.scaled(group, alpha / rank)
    if _MAGNITUDE in group and (lacking := [part for part in peft_kinds.DORA if part not in group]):
        raise peft_kinds.BadTensor(_MAGNITUDE, f"without its {lacking[0]}: save or download it again")
    if not complete:
        return group  # skipped by the method, and reported
    down = next(part for part, suffix in _LORA_PARTS.items() if suffix == "lora_down.weight" and part in group)
    if not group[down].numel():
        raise peft_kinds.BadTensor(down, f"of shape {list(group[down].shape)}, but a matrix [rank, in] is needed")
    if not group[down].ndim:
        raise peft_kinds.BadTensor(down, "that is a single number, but a matrix [rank, in] is needed")
    rank = len(group[down])
    alpha = float(own_alpha) if not records and own_alpha is not None else _lora_alpha(name, rank, records)
    if _MAGNITUDE in group:
        return peft_kinds.dora(group, alpha) | _without(group, *peft_kinds.DORA)
    if record.get("use_dora"):
        raise peft_kinds.BadTensor(down, f"without its {_MAGNITUDE}: save or download it again")
    parts = {_LORA_PARTS[part]: tensor for part, tensor in group.items() if part in _LORA_PARTS}
    if _LORA_BIAS in group:
        parts["diff_b"] = group[_LORA_BIAS].float() * (alpha / rank)
    left = _without(group, *_LORA_PARTS, _LORA_BIAS)
    return parts | {"alpha": torch.tensor(alpha, dtype=torch.float32)} | left


def _without(group: Mapping[str, Tensor], *parts: str) -> dict[str, Tensor]:
    """The other tensors of a layer, which are not used, but reported."""
    return {part: tensor for part, tensor in group.items() if part not in parts}


def _lora_alpha(name: str, rank: int, records: Mapping[str, dict[str, Any]]) -> float:
    """The alpha of a layer, for a scale of alpha / r; for rsLoRA, whose scale is alpha / sqrt(r), alpha sqrt(r)."""
    record = _record_of(name, records)
    alpha = _pattern(name, "alpha_pattern", record, records, "lora_alpha", rank)
    return alpha * rank**0.5 if record.get("use_rslora") else alpha


def _pattern(
    name: str,
    field: str,
    record: Mapping[str, Any],
    records: Mapping[str, dict[str, Any]],
    usual: str,
    default: float,
) -> float:
    """A layer's entry in alpha_pattern or rank_pattern, as PEFT's get_pattern_key finds it, or the usual value."""
    patterns: dict[str, Any] = record.get(field) or {}
    module = name if "" in records else name.partition(".")[2]
    values = (value for key, value in patterns.items() if layer_patterns.matches(field, key, module))
    value = next(values, record.get(usual))
    return float(default if value is None else value)
