"""PEFT's other tuners, and LoRAs that change their base: read here, computed by PEFT itself (see methods/peft_tuner).

The adapter has the file's tensors by "<module path>.<PEFT's name>", with slashes for the dots in PEFT's name, so that
nobody takes them for a LoRA's; those that all layers share by their name alone; and the record, in JSON by component,
under metadata[RECORD]. A file is checked against its record when it is read, and
against the weights when it is laid over a model (matching/peft_tuners.py).
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..adapter import Adapter, source_of
from ..wording import one_line
from . import layer_patterns, peft_fields, peft_records, peft_tensors
from .peft import records_of
from .source import PEFT_HEADER, PEFT_PREFIX, Source

NAME = "peft_tuners"
RECORD = "peft_record"
_MODEL = PEFT_PREFIX.partition(".")[0] + "."  # before what the layers share
_SHARED = re.compile(r"(tinylora_v\.\d+|frod_(?:V|s_indices|s_size)\.[^.]+|[a-z]+_(?:A|B|vector_bank|theta_d))$")
_OWN_VALUES = re.compile(r"(?:\.modules_to_save(?:\.[^.]+)?|\.base_layer)?\.(weight|bias)$")
_DEFAULT = ".default"
_LOAD = "save the file that it was made of again"
_ADVICE = "merge it into its base with PEFT and use Extract Adapter on the two models"
# Decompositions of the base that the file does not have: on another device or in another precision they may differ.
_OF_THE_BASE = {
    "PSOFT": "the signs of a decomposition of the base",
    "ADAMSS": "a grouping of the base's rows",
}


@dataclass
class TunerPart:
    """The tensors of one record in a file: by layer and PEFT's name, and those that all layers share."""

    component: str
    record: dict[str, Any]
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The peft_type."""
        return str(self.record["peft_type"])

    def record_of(self, name: str) -> dict[str, Any]:
        """The record of a layer."""
        return peft_fields.layer_record(self.kind, self.record, name.removeprefix(f"{self.component}."))


def matches(source: Source) -> bool:
    """Whether the file's record is one that this pack does not compute by itself."""
    if PEFT_HEADER not in source.metadata and not source.is_peft_weights:
        return False
    try:
        readings = [_reading(record) for record in records_of(source).values()]
    except ValueError:
        return False
    return "peft" in readings


def _reading(record: Mapping[str, Any]) -> str:
    """The result of peft_records.reading_of; a record that it refuses is "own" if this pack computes its type."""
    try:
        return peft_records.reading_of(record)
    except ValueError:
        return "own" if peft_records.kind_of(record) in peft_records.COMPUTED_TYPES else "peft"


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter, with its record in the metadata. `projector` is not used.

    Raises ValueError, its message naming the file: a type or a field that is not read, a tensor that is missing,
    that does not belong to the record or has another size, a PEFT that is too old or not installed.
    """
    records: dict[str, dict[str, Any]] = {}
    if not records_of(source):
        raise ValueError(f"{source.path} has no record of PEFT (adapter_config.json beside it): choose auto.")
    for component, record in records_of(source).items():
        where = f" (of its part {component})" if component else ""
        try:
            peft_records.reading_of(record)
            records[component] = _completed(record)
        except ValueError as error:
            raise ValueError(f"{source.path} {error}{where}.") from error
    adapter = Adapter()
    for key, tensor in source.tensors.items():
        name = key.removeprefix(PEFT_PREFIX).removeprefix(_MODEL)
        kind = _record_of(name, records)["peft_type"]
        layer_and_part = split(name, kind)
        if layer_and_part is not None:  # with the name of the adapter, which PEFT takes out when it saves
            name = f"{layer_and_part[0]}.{layer_and_part[1].replace(_DEFAULT, '')}"
            layer_and_part = split(name, kind)
        elif _SHARED.match(name.replace(_DEFAULT, "")):
            name = name.replace(_DEFAULT, "")
        if kind == "RANDLORA" and name.endswith((".randlora_A", ".randlora_B")):
            continue  # what the layers share, once more for each of them
        if kind == "GLORA" and name.endswith(".zeros") and not tensor.any():
            continue
        if kind == "LN_TUNING" and layer_and_part is not None and layer_and_part[1].startswith("ln_tuning_layers."):
            name = _replaced(name.replace(".ln_tuning_layers.", "."), key, source)
        elif layer_and_part is not None:
            name = key_of(*layer_and_part)
        elif not _SHARED.match(name):
            name = _replaced(name, key, source)
        if name in adapter:
            raise ValueError(f"{source.path} has {name} twice, as {adapter.spelled.get(name, name)} and {key}.")
        adapter[name] = tensor
        if name != key:
            adapter.spelled[name] = key
    adapter.metadata = {RECORD: json.dumps(records), "method": "/".join(sorted({_name(r) for r in records.values()}))}
    for part in parts_of(adapter) or []:
        _check(part, source)
    notes = [
        f"{_name(record)} depends on {_OF_THE_BASE[record['peft_type']]}, which is not in the file: on another device "
        "or in another precision than in its training it may change the model in another way."
        for record in records.values()
        if record["peft_type"] in _OF_THE_BASE
    ]
    if notes:
        adapter.metadata["note"] = " ".join(notes)
    return adapter


def parts_of(adapter: Mapping[str, Tensor]) -> list[TunerPart] | None:
    """The layers of an adapter that PEFT has to compute, by record; None of any other adapter.

    Raises ValueError, its message naming the adapter's file, for a record that cannot be read.
    """
    metadata: Mapping[str, str] = getattr(adapter, "metadata", {})
    if RECORD not in metadata:
        return None
    try:
        records = json.loads(metadata[RECORD])
        parts = {name: TunerPart(name, dict(record)) for name, record in records.items()}
        complete = all(set(peft_fields.FIELDS[part.kind]) <= part.record.keys() for part in parts.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{_header_of(adapter)} cannot be read ({one_line(repr(error))}): {_LOAD}.") from error
    if not complete:
        raise ValueError(f"{_header_of(adapter)} lacks fields of PEFT's configuration: {_LOAD}.")
    for each in parts.values():
        try:
            peft_fields.check_values(each.record)
        except ValueError as error:
            raise ValueError(f"{_header_of(adapter)} {error}: {_LOAD}.") from error
    for key, tensor in adapter.items():
        part = parts.get(key.partition(".")[0], parts.get(""))
        if part is None:
            continue
        layer_and_part = split(key, part.kind)
        if layer_and_part is not None:
            part.layers.setdefault(layer_and_part[0], {})[layer_and_part[1]] = tensor
        elif _SHARED.match(key):
            part.shared[key] = tensor
    return list(parts.values())


def _header_of(adapter: Mapping[str, Tensor]) -> str:
    return f"The {RECORD} in the header of {source_of(adapter)}"


def names_of(adapter: Mapping[str, Tensor]) -> dict[str, str]:
    """The name of the tuner of each layer that PEFT has to compute, and of what they share."""
    names: dict[str, str] = {}
    for part in parts_of(adapter) or []:
        shared = {key.partition(".")[0] for key in part.shared}
        names |= dict.fromkeys([*part.layers, *shared], _name(part.record))
    return names


def split(key: str, kind: str) -> tuple[str, str] | None:
    """The layer and PEFT's name of a tensor; None if it is not one of a layer of this tuner."""
    place = key.find(f".{peft_tensors.beginning_of(kind)}")
    return None if place < 1 else (key[:place], key[place + 1 :].replace("/", "."))


def key_of(layer: str, name: str) -> str:
    """The key of a layer's tensor in the adapter."""
    return f"{layer}.{name.replace('.', '/')}"


def _record_of(name: str, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return records.get(name.partition(".")[0], records.get("", next(iter(records.values()))))


def _name(record: Mapping[str, Any]) -> str:
    """The tuner's name for users."""
    start = record.get("init_lora_weights")
    return start.lower() if isinstance(start, str) else str(record["peft_type"]).lower()


def _completed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the change depends on, with the defaults of the PEFT that is installed.

    Raises ValueError, its message to be put after the file's name.
    """
    kind = peft_records.kind_of(record)
    if kind not in peft_fields.FIELDS:
        raise ValueError(f"holds a PEFT adapter of type {kind}, which this pack computes itself: choose auto")
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise ValueError(
            f"holds a PEFT adapter of type {kind}, which needs the package peft, and it cannot be imported ({error}): "
            f"install it with `{sys.executable} -m pip install peft`"
        ) from error
    configurations: Any = PEFT_TYPE_TO_CONFIG_MAPPING  # its keys are strings, too
    if kind not in configurations:
        raise ValueError(
            f"holds a PEFT adapter of type {kind}, which the installed PEFT does not have: upgrade it with "
            f"`{sys.executable} -m pip install --upgrade peft`"
        )
    defaults = {entry.name: _default(entry) for entry in dataclasses.fields(configurations[kind])}
    peft_fields.check_record(kind, record, defaults)
    _check_kind(kind, record)
    fields = {name: record.get(name, defaults.get(name)) for name in peft_fields.FIELDS[kind]}
    return {"peft_type": kind, **fields}


def _default(entry: Any) -> Any:
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _check_kind(kind: str, record: Mapping[str, Any]) -> None:
    """Raise ValueError for settings with which a file is not complete."""
    if kind == "UNILORA" and not record.get("save_indices"):
        raise ValueError(
            "is a UniLoRA without its indices, which depend on the order of all layers in the program that made it: "
            f"save it with save_indices=True, or {_ADVICE}"
        )
    if kind == "FROD" and record.get("save_projection") is False:
        raise ValueError(
            "is a FRoD without its projections, which depend on all weights of the base: save it with "
            f"save_projection=True, or {_ADVICE}"
        )
    if kind == "TINYLORA" and record.get("save_projection") is False:
        raise ValueError(
            "is a TinyLoRA without its projections, which depend on the order of all layers in the program that made "
            f"it: save it with save_projection=True, or {_ADVICE}"
        )
    if kind == "ADAMSS":
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "is an AdaMSS, for which PEFT needs the package scikit-learn, which is not installed: install it with "
                f"`{sys.executable} -m pip install scikit-learn`"
            ) from error


def _replaced(name: str, key: str, source: Source) -> str:
    """This pack's name for a weight or a bias that replaces the base's. Raises ValueError for any other tensor."""
    ending = _OWN_VALUES.search(name)
    if ending is None or not ending.start():
        raise ValueError(
            f"{source.path} has {key}, which is no tensor of its tuner: save it with PEFT, or remove the tensor."
        )
    return f"{name[: ending.start()]}{'.bias' if ending[1] == 'bias' else ''}.replaced"


def _check(part: TunerPart, source: Source) -> None:
    """Raise ValueError for tensors that are missing, do not belong to the record or have other sizes."""
    names = peft_tensors.shared_of(part.kind, part.record)
    missing = [name for name in names if name not in part.shared]
    if missing and part.layers:
        raise ValueError(f"{source.path} has no {_MODEL}{missing[0]}, which all of its layers need: save it again.")
    for name, group in part.layers.items():
        try:
            record = part.record_of(name)
            peft_tensors.check_names(part.kind, record, group, bias=None)
            peft_tensors.check_sizes(part.kind, record, group, part.shared)
        except layer_patterns.Slow as error:
            raise ValueError(f"{source.path} {error}.") from error
        except peft_tensors.UNUSABLE as error:
            raise ValueError(
                f"{source.path} does not fit together at layer {name}: {error}. Save or download it again."
            ) from error
