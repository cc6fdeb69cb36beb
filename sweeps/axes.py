"""The axes of a plan and their values: lists, ranges, seeds, rows of a CSV, files, folders."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .schema import near

SOURCES = ("values", "range", "seeds", "csv", "files", "folders")
KEYS = (*SOURCES, "into", "first", "label", "only", "match", "upload")
SWITCHES = ("mute", "bypass", "without")
MOST_VALUES = 1_000_000


@dataclass(frozen=True)
class LocalFile:
    """A file or folder of this machine that the server shall get."""

    path: Path


@dataclass(frozen=True)
class Value:
    """One value of an axis. targets: what it sets. mute, bypass: nodes that it switches off. facts: its CSV row.

    without: axes that mean nothing beside this value; it is combined with their first value only.
    """

    label: str
    targets: tuple[tuple[str, Any], ...] = ()
    mute: tuple[str, ...] = ()
    bypass: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """One axis. match: columns in which a value has to agree with those of earlier axes that it is combined with."""

    name: str
    values: tuple[Value, ...]
    match: tuple[str, ...] = ()

    @property
    def facts(self) -> set[str]:
        """Names of all columns."""
        return {name for value in self.values for name in value.facts}


def read_axis(name: str, spec: Any, folder: Path) -> Axis:
    """An axis as a plan describes it. folder: that of the plan. Raises ValueError that names the axis."""
    if isinstance(spec, list):
        spec = {"values": spec, "into": f"%{name}%"}
    if not isinstance(spec, Mapping):
        raise ValueError(f"the axis {name} must be a mapping with `into` and one of {', '.join(SOURCES)}.")
    for key in spec:
        if key not in KEYS:
            raise ValueError(f"the axis {name} has the unknown word {key!r}; {near(str(key), KEYS)}.")
    sources = [key for key in SOURCES if key in spec]
    if len(sources) != 1:
        raise ValueError(
            f"the axis {name} needs one of {', '.join(SOURCES)}, and has {' and '.join(sources) or 'none of them'}."
        )
    try:
        values = _READERS[sources[0]](spec, folder)
    except ValueError as error:
        raise ValueError(f"the axis {name}: {error}") from error
    if not values:
        raise ValueError(f"the axis {name} has no values.")
    seen: set[str] = set()
    for value in values:
        if value.label in seen:
            raise ValueError(f"the axis {name} has two values that are called {value.label!r}.")
        seen.add(value.label)
    return Axis(name, tuple(values), tuple(map(str, words(spec.get("match")))))


def words(value: Any) -> list[Any]:
    """A list as it is, a single value as a list of one, nothing as an empty one."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _targets(into: Any, value: Any) -> tuple[tuple[str, Any], ...]:
    targets = words(into)
    if not targets or not all(isinstance(target, str) for target in targets):
        raise ValueError('`into` is missing: name a node\'s input ("Title.input") or a placeholder ("%name%").')
    return tuple((target, value) for target in targets)


def _listed(spec: Mapping[str, Any], folder: Path) -> list[Value]:
    values = spec["values"]
    if isinstance(values, list):
        if any(isinstance(value, (list, Mapping)) for value in values):
            raise ValueError("`values` is a list of plain values, or a mapping of labels to what each of them sets.")
        return [Value(str(value), _targets(spec.get("into"), value)) for value in values]
    if not isinstance(values, Mapping):
        raise ValueError("`values` must be a list or a mapping of labels.")
    return [_named(str(label), value, spec.get("into")) for label, value in values.items()]


def _named(label: str, value: Any, into: Any) -> Value:
    """A labelled value: a plain one goes where `into` says, a mapping says itself what it sets."""
    if value is None:
        return Value(label)
    if not isinstance(value, Mapping):
        return Value(label, _targets(into, value))
    switches = {name: tuple(map(str, words(value.get(name)))) for name in SWITCHES}
    for target, item in value.items():
        if target not in SWITCHES and isinstance(item, (list, Mapping)):
            raise ValueError(f"{label}: {target} is set to {item!r}; write a plain value.")
    targets = tuple((str(target), item) for target, item in value.items() if target not in SWITCHES)
    return Value(label, targets, switches["mute"], switches["bypass"], switches["without"])


def _range(spec: Mapping[str, Any], folder: Path) -> list[Value]:
    bounds = spec["range"]
    if not isinstance(bounds, Mapping) or set(bounds) - {"from", "to", "step"} or not {"from", "to"} <= set(bounds):
        raise ValueError("`range` needs `from` and `to`, both of them included, and may have a `step`.")
    start, stop, step = (_number(value) for value in (bounds["from"], bounds["to"], bounds.get("step", 1)))
    if step == 0 or (stop - start) / step < 0:
        raise ValueError(f"`range` from {start} to {stop} is never reached in steps of {step}.")
    count = int((stop - start) / step + 1e-9) + 1
    if count > MOST_VALUES:
        raise ValueError(f"`range` has {count} values; {MOST_VALUES} are the most.")
    values = [start + step * index for index in range(count)]
    if any(isinstance(value, float) for value in (start, stop, step)):
        values = [float(f"{value:.12g}") for value in values]  # 0.30000000000000004 is not what the plan says
    return [Value(str(value), _targets(spec.get("into"), value)) for value in values]


def _number(value: Any) -> int | float:
    """A number of the plan; YAML takes 1e-4 for a word."""
    try:
        found = float(value) if isinstance(value, str) else value
        if isinstance(found, bool) or not math.isfinite(found):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError("`range` takes numbers only.") from None
    return found


def _seeds(spec: Mapping[str, Any], folder: Path) -> list[Value]:
    count, first = spec["seeds"], spec.get("first", 0)
    if isinstance(count, list):
        return _listed({**spec, "values": count}, folder)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in (count, first)) or count < 1:
        raise ValueError("`seeds` is how many there are (or a list), and `first` the first of them: whole numbers.")
    if count > MOST_VALUES:
        raise ValueError(f"`seeds` is {count}; {MOST_VALUES} are the most.")
    return [Value(str(seed), _targets(spec.get("into"), seed)) for seed in range(first, first + count)]


def _rows(spec: Mapping[str, Any], folder: Path) -> list[Value]:
    path = folder / str(spec["csv"])
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            rows = list(reader)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: check `csv`.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    columns = list(reader.fieldnames or ())
    into, label = spec.get("into"), str(spec.get("label", columns[0] if columns else ""))
    if isinstance(into, (str, list)):
        into = {label: into}
    if not isinstance(into, Mapping):
        raise ValueError("`into` is missing: say for each column of the CSV which input or placeholder it goes into.")
    only = {str(name): set(map(str, words(values))) for name, values in (spec.get("only") or {}).items()}
    upload = set(map(str, words(spec.get("upload"))))
    for name in (label, *into, *only, *upload, *map(str, words(spec.get("match")))):
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}; {near(name, columns)}.")
    values = []
    for number, row in enumerate(rows, 2):
        if None in row.values() or "" in row:
            raise ValueError(f"{path}, line {number}: it has not as many values as the first line has columns.")
        if all(row[name] in allowed for name, allowed in only.items()):
            targets = tuple(
                (str(target), _local(path.parent / row[column]) if column in upload else row[column])
                for column, targets in into.items()
                for target in words(targets)
            )
            values.append(Value(row[label], targets, facts=row))
    return values


def _local(path: Path) -> LocalFile:
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    return LocalFile(path)


def _files(spec: Mapping[str, Any], folder: Path) -> list[Value]:
    kind = "files" if "files" in spec else "folders"
    found = sorted(
        path
        for pattern in words(spec[kind])
        for path in _globbed(folder, str(pattern))
        if (path.is_file() if kind == "files" else path.is_dir()) and not path.name.startswith(".")
    )
    if not found:
        raise ValueError(f"no {kind} are found under {spec[kind]}.")
    names = [path.name for path in found]
    labels = names if len(set(names)) == len(names) else [path.as_posix() for path in found]
    return [Value(label, _targets(spec.get("into"), LocalFile(path))) for label, path in zip(labels, found)]


def _globbed(folder: Path, pattern: str) -> list[Path]:
    start = Path(pattern)
    if start.is_absolute():
        return list(Path(start.anchor).glob(str(start.relative_to(start.anchor))))
    return list(folder.glob(pattern))


_READERS = {"values": _listed, "range": _range, "seeds": _seeds, "csv": _rows, "files": _files, "folders": _files}
