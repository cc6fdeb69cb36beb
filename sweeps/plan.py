"""The plan: one YAML file that says which workflow is run with which values. docs/sweeps.md describes it."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..disk.errors import reason
from .axes import MOST_VALUES, Axis, read_axis
from .plan_file import PlanFile, read_plan_file
from .schema import near

MOST_NODES = 200_000  # names and values that a plan writes: each takes half a kilobyte
TOO_MANY = f"it has more than {MOST_NODES:,} names and values; put long lists into a CSV"
MOST_PARTS, DEEPEST = 1_000_000, 100  # values of a plan with what aliases repeat, and brackets in each other
PLACEHOLDER = re.compile(r"%([A-Za-z_][\w-]*)%")


@dataclass(frozen=True)
class PlanNumber:
    """An output rule: a number that a node shows as text. pattern: the first group, or the whole match, is it."""

    name: str
    node: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Outputs:
    """What is stored. only: these output nodes alone are run (all if empty). previews: temporary pictures, too."""

    only: tuple[str, ...] = ()
    previews: bool = False
    numbers: tuple[PlanNumber, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A plan. fixed: target -> value, set before the axes. exclude: rules; a cell that meets all of one is skipped.

    time_limit: seconds that a cell may run, None for any number. choice_seed: by which {a|b} in texts is drawn for each
    cell, None: not at all. report: what the plan says of its report, by the names of plan_file.ReportPart.
    """

    name: str
    about: str
    workflow: Path
    source: Path
    fixed: dict[str, Any] = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    exclude: tuple[dict[str, frozenset[str]], ...] = ()
    outputs: Outputs = Outputs()
    time_limit: float | None = None
    choice_seed: int | None = None
    report: dict[str, Any] = field(default_factory=dict)


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file; the files that it names are beside it.

    Raises:
        ValueError: one sentence that names the file and what is wrong, for YAML that cannot be read, unknown words
            (with the near ones), missing files, two values of one label.
    """
    import yaml

    try:
        data = _loaded(path.read_bytes().decode("utf-8-sig"))  # Windows' editors write a mark of the encoding first
    except FileNotFoundError:
        raise ValueError(f"The plan {path} does not exist: check its name.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The plan {path} cannot be read ({reason(error)}): check its name and permissions, and that it is "
            "saved as UTF-8."
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"The plan {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise ValueError(f"The plan {path} has lists or mappings nested too deeply: flatten them.") from error
    try:
        return _plan(data, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _loaded(text: str) -> Any:
    """The content of a YAML text.

    Raises yaml.YAMLError, also for more than MOST_NODES names and values, and for aliases that repeat more than
    MOST_PARTS: some lines can stand for billions.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """A loader whose work does not grow with the square of the brackets that are open, and has an end."""

        nodes = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.nodes += 1
            if self.nodes > MOST_NODES:
                raise yaml.YAMLError(TOO_MANY)
            return super().compose_node(parent, index)

        def fetch_flow_collection_start(self, token: Any) -> None:
            if self.flow_level >= DEEPEST:
                raise yaml.YAMLError(f"more than {DEEPEST} brackets are nested in each other")
            super().fetch_flow_collection_start(token)

    if len(text) > MOST_NODES and _has_too_many(text):
        raise yaml.YAMLError(TOO_MANY)
    node = yaml.compose(text, Loader=Loader)
    if node is None:
        return None
    if _parts(node, {}) > MOST_PARTS:
        raise yaml.YAMLError(f"its aliases (*name) stand for more than {MOST_PARTS:,} values, or contain themselves")
    return yaml.constructor.SafeConstructor().construct_document(node)


def _has_too_many(text: str) -> bool:
    """Whether a text has more than MOST_NODES names and values: libyaml, where PyYAML has it, says so in no time.

    What it cannot read, and what is nested too deeply, is left to the loader.
    """
    import yaml

    nodes = depth = 0
    with contextlib.suppress(yaml.YAMLError):
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            nodes += isinstance(event, yaml.NodeEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if nodes > MOST_NODES or depth > DEEPEST or isinstance(event, yaml.DocumentEndEvent):
                break
    return nodes > MOST_NODES


def _parts(node: Any, counts: dict[int, float]) -> float:
    """How many values a node of YAML holds, those behind its aliases each time anew; infinity if it holds itself."""
    if id(node) not in counts:
        counts[id(node)] = math.inf  # until it is counted: whoever comes here meanwhile is inside of it
        inner = node.value if isinstance(node.value, list) else ()
        each = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        counts[id(node)] = 1 + sum(_parts(part, counts) for part in each)
    return counts[id(node)]


def _plan(data: Any, path: Path) -> Plan:
    parts = read_plan_file(data)
    axes = _axes(parts, path.parent)
    names = {axis.name for axis in axes} | {fact for axis in axes for fact in axis.facts}
    for axis in axes:
        _check_match(axis, axes)
        for other in {name for value in axis.values for name in value.without}:
            if other == axis.name or other not in {each.name for each in axes}:
                raise ValueError(
                    f"the axis {axis.name}: `without` names {other!r}, which is no other axis; "
                    f"{near(other, [each.name for each in axes])}."
                )
    _check_rules(parts.exclude, names)
    outputs = parts.outputs
    return Plan(
        parts.name or path.stem,
        " ".join(parts.about.split()),
        path.parent / parts.workflow,
        path,
        parts.fixed,
        axes,
        tuple({name: frozenset(values) for name, values in rule.items()} for rule in parts.exclude),
        Outputs(
            outputs.only,
            outputs.previews,
            tuple(PlanNumber(name, part.node, part.pattern) for name, part in outputs.numbers.items()),
        ),
        parts.time_limit,
        parts.choice_seed,
        {name: value for name, value in (data.get("report") or {}).items() if value is not None},
    )


def _axes(parts: PlanFile, folder: Path) -> tuple[Axis, ...]:
    axes, count = [], 0
    for name, part in parts.axes.items():
        axes.append(read_axis(name, part, folder))
        count += len(axes[-1].values)
        if count > MOST_VALUES:
            raise ValueError(f"the axes have {count:,} values and more; {MOST_VALUES:,} are the most of all together.")
    return tuple(axes)


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


def _check_rules(rules: Iterable[Mapping[str, Any]], names: set[str]) -> None:
    for name in (name for rule in rules for name in rule):
        if name not in names:
            raise ValueError(
                f"`exclude` names {name!r}, which is neither an axis nor a column of one; {near(name, sorted(names))}."
            )
