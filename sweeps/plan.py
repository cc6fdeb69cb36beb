"""The plan: one YAML file that says which workflow is run with which values. docs/sweeps.md describes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .axes import Axis, read_axis, words
from .schema import near

KEYS = ("name", "about", "workflow", "set", "axes", "exclude", "outputs", "report")
REPORT_KEYS = ("rows", "columns", "metrics", "picture", "grid_rows", "grid_columns")
PLACEHOLDER = re.compile(r"%([A-Za-z_][\w-]*)%")


@dataclass(frozen=True)
class Number:
    """An output rule: a number that a node shows as text. pattern: the first group, or the whole match, is it."""

    name: str
    node: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Outputs:
    """What is stored. only: these output nodes alone are run (all if empty). previews: temporary pictures, too."""

    only: tuple[str, ...] = ()
    previews: bool = False
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Plan:
    """fixed: target -> value, set before the axes. exclude: rules; a cell that meets all of one rule is left out.

    report: what the plan says of its report, by the names of REPORT_KEYS.
    """

    name: str
    about: str
    workflow: Path
    source: Path
    fixed: dict[str, Any] = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    exclude: tuple[dict[str, frozenset[str]], ...] = ()
    outputs: Outputs = Outputs()
    report: dict[str, Any] = field(default_factory=dict)


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file; the files that it names are beside it.

    Raises:
        ValueError: one sentence that names the file and what is wrong, for YAML that cannot be read, unknown words
            (with the near ones), missing files, two values of one label.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"The plan {path} does not exist: check its name.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The plan {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"The plan {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    try:
        return _plan(data, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _plan(data: Any, path: Path) -> Plan:
    values = mapping(data, "the plan", KEYS)
    name = str(values.get("name") or path.stem)
    if not re.fullmatch(r"[\w-]{1,60}", name, re.ASCII):
        raise ValueError(f"`name` is {name!r}: write at most 60 letters, digits, - and _.")
    if not isinstance(values.get("workflow"), str):
        raise ValueError("`workflow` is missing: name the file of a saved workflow.")
    axes = tuple(read_axis(axis, spec, path.parent) for axis, spec in mapping(values.get("axes"), "`axes`").items())
    known = {axis.name for axis in axes} | {fact for axis in axes for fact in axis.facts}
    for axis in axes:
        _check_match(axis, axes)
        for other in {name for value in axis.values for name in value.without}:
            if other == axis.name or other not in {each.name for each in axes}:
                raise ValueError(
                    f"the axis {axis.name}: `without` names {other!r}, which is no other axis; "
                    f"{near(other, [each.name for each in axes])}."
                )
    return Plan(
        name,
        " ".join(str(values.get("about") or "").split()),
        path.parent / values["workflow"],
        path,
        dict(mapping(values.get("set"), "`set`")),
        axes,
        tuple(_rule(rule, known) for rule in values.get("exclude") or ()),
        _outputs(values.get("outputs")),
        mapping(values.get("report"), "`report`", REPORT_KEYS),
    )


def _check_match(axis: Axis, axes: Iterable[Axis]) -> None:
    before: set[str] = set()
    for other in axes:
        if other is axis:
            break
        before |= other.facts
    for column in axis.match:
        if column not in before or column not in axis.facts:
            raise ValueError(
                f"the axis {axis.name} matches by the column {column!r}, which has to be a column of its "
                f"own values and of an earlier axis; {near(column, sorted(before))}."
            )


def _rule(rule: Any, known: set[str]) -> dict[str, frozenset[str]]:
    found = {}
    for name, values in mapping(rule, "a rule of `exclude`").items():
        if name not in known:
            raise ValueError(
                f"`exclude` names {name!r}, which is neither an axis nor a column of one; {near(name, sorted(known))}."
            )
        found[name] = frozenset(str(value) for value in (values if isinstance(values, list) else [values]))
    if not found:
        raise ValueError("a rule of `exclude` is empty: it would leave out everything.")
    return found


def _outputs(data: Any) -> Outputs:
    values = mapping(data, "`outputs`", ("only", "previews", "numbers"))
    numbers = []
    for name, spec in mapping(values.get("numbers"), "`outputs: numbers`").items():
        item = mapping(spec, f"the number {name!r}", ("node", "pattern"))
        try:
            pattern = re.compile(str(item.get("pattern") or r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"))
        except re.error as error:
            raise ValueError(f"the pattern of the number {name!r} is no regular expression ({error}).") from error
        if "node" not in item:
            raise ValueError(f"the number {name!r} needs a `node`: the title of the node that shows it.")
        numbers.append(Number(str(name), str(item["node"]), pattern))
    return Outputs(tuple(map(str, words(values.get("only")))), bool(values.get("previews")), tuple(numbers))


def mapping(value: Any, what: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping of the plan, empty if nothing is there; with `keys`, only these are allowed.

    Raises ValueError that says what is wrong, with the near keys.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a mapping (name: value), not {value!r}.")
    allowed = list(keys)
    for key in value:
        if allowed and key not in allowed:
            raise ValueError(f"{what} has the unknown word {key!r}; {near(str(key), allowed)}.")
    return {str(key): item for key, item in value.items()}
