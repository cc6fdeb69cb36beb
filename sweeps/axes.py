"""The axes of a plan and their values: lists, ranges, seeds, rows of a CSV, files, folders."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..disk.errors import reason
from .plan_file import AxisPart, AxisSetting, words
from .schema import near

MOST_VALUES = 100_000  # of all axes of a plan: each takes half a kilobyte
MOST_ENTRIES = 1_000_000  # rows of a CSV that are taken, times its columns


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
        """The names of all columns."""
        return {name for value in self.values for name in value.facts}


def read_axis(name: str, part: AxisPart, folder: Path) -> Axis:
    """An axis as a plan describes it. folder: that of the plan. Raises ValueError that names the axis."""
    try:
        values = _READERS[part.source](part, folder)
    except ValueError as error:
        raise ValueError(f"the axis {name}: {error}") from error
    if not values:
        raise ValueError(f"the axis {name} has no values.")
    seen: set[str] = set()
    for value in values:
        if value.label in seen:
            raise ValueError(f"the axis {name} has two values that are called {value.label!r}.")
        seen.add(value.label)
    return Axis(name, tuple(values), part.match)


def _targets(into: Any, value: Any) -> tuple[tuple[str, Any], ...]:
    targets = words(into)
    if not targets or not all(isinstance(target, str) for target in targets):
        raise ValueError('`into` is missing: name a node\'s input ("Title.input") or a placeholder ("%name%").')
    return tuple((target, value) for target in targets)


def _listed(part: AxisPart, folder: Path) -> list[Value]:
    if isinstance(part.values, Mapping):
        return [_labelled(label, value, part.into) for label, value in part.values.items()]
    return [Value(str(value), _targets(part.into, value)) for value in part.values or ()]


def _labelled(label: str, value: Any, into: Any) -> Value:
    """A labelled value: a plain one goes where `into` says, a mapping says itself what it sets."""
    if value is None:
        return Value(label)
    if not isinstance(value, AxisSetting):
        return Value(label, _targets(into, value))
    return Value(label, tuple((value.model_extra or {}).items()), value.mute, value.bypass, value.without)


def _range(part: AxisPart, folder: Path) -> list[Value]:
    bounds = part.range
    assert bounds is not None
    start, stop, step = bounds.start, bounds.stop, bounds.step
    if step == 0 or (stop - start) / step < 0:
        raise ValueError(f"`range` from {start} to {stop} is never reached in steps of {step}.")
    count = int((stop - start) / step + 1e-9) + 1
    if count > MOST_VALUES:
        raise ValueError(f"`range` has {count:,} values; {MOST_VALUES:,} are the most.")
    values = [start + step * index for index in range(count)]
    if any(isinstance(value, float) for value in (start, stop, step)):
        values = [float(f"{value:.12g}") for value in values]  # 0.30000000000000004 is not what the plan says
    return [Value(str(value), _targets(part.into, value)) for value in values]


def _seeds(part: AxisPart, folder: Path) -> list[Value]:
    seeds = part.seeds
    if isinstance(seeds, int):
        if seeds > MOST_VALUES:
            raise ValueError(f"`seeds` is {seeds:,}; {MOST_VALUES:,} are the most.")
        seeds = list(range(part.first, part.first + seeds))
    return [Value(str(seed), _targets(part.into, seed)) for seed in seeds or ()]


def _rows(part: AxisPart, folder: Path) -> list[Value]:
    path = folder / (part.csv or "")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _row_values(part, path, csv.DictReader(file, restkey="", strict=True))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: check `csv`.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}): check `csv` and the file.") from error


def _row_values(part: AxisPart, path: Path, reader: csv.DictReader[str]) -> list[Value]:
    """The values of a CSV's rows. Each is checked before the next is read: it holds all columns, also missing ones."""
    columns = list(reader.fieldnames or ())
    into, label = part.into, part.label if part.label is not None else (columns[0] if columns else "")
    if isinstance(into, (str, list)):
        into = {label: into}
    if not isinstance(into, Mapping):
        raise ValueError("`into` is missing: say for each column of the CSV which input or placeholder it goes into.")
    for name in (label, *into, *part.only, *part.upload, *part.match):
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}; {near(name, columns)}.")
    values: list[Value] = []
    for number, row in enumerate(reader, 2):
        if None in row.values() or "" in row:
            raise ValueError(f"{path}, line {number}: it has not as many values as the first line has columns.")
        if all(row[name] in allowed for name, allowed in part.only.items()):
            targets = tuple(
                (str(target), _local(path.parent / row[column]) if column in part.upload else row[column])
                for column, targets in into.items()
                for target in words(targets)
            )
            values.append(Value(row[label], targets, facts=row))
        if len(values) > MOST_VALUES or len(values) * len(columns) > MOST_ENTRIES:
            raise ValueError(
                f"{path} is too long: an axis has at most {MOST_VALUES:,} rows, and {MOST_ENTRIES:,} values in them."
            )
    return values


def _local(path: Path) -> LocalFile:
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    return LocalFile(path)


def _files(part: AxisPart, folder: Path) -> list[Value]:
    kind = part.source
    patterns = part.files or part.folders or ()
    paths = sorted(
        path
        for pattern in patterns
        for path in _globbed(folder, pattern)
        if (path.is_file() if kind == "files" else path.is_dir()) and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(f"no {kind} are found under {', '.join(patterns)}.")
    names = [path.name for path in paths]
    labels = names if len(set(names)) == len(names) else [path.as_posix() for path in paths]
    return [Value(label, _targets(part.into, LocalFile(path))) for label, path in zip(labels, paths)]


def _globbed(folder: Path, pattern: str) -> list[Path]:
    start = Path(pattern)
    if start.is_absolute():
        return list(Path(start.anchor).glob(str(start.relative_to(start.anchor))))
    return list(folder.glob(pattern))


_READERS: dict[str, Callable[[AxisPart, Path], list[Value]]] = {
    "values": _listed,
    "range": _range,
    "seeds": _seeds,
    "csv": _rows,
    "files": _files,
    "folders": _files,
}
