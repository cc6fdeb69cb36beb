"""Signs that a value is not what it should be: it has another type, or JavaScript of a pack has a part in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .definitions import DYNAMIC_COMBO, InputSpec
from .errors import refused
from .nodes import Info, Node, Slot, fits
from .values import choices_of

OWN_NODE = "DEFTTrainAdapter"


def check_known(node: Node) -> None:
    """Raise NotConvertible for a node with an input of a type that is not known here."""
    if node.unknown:
        problem = f"is of the type {node.unknown.type}, which this pack does not know"
        raise refused(f"{node.where}: `{node.unknown.name}`", problem)


def check_count(node: Node, info: Info) -> None:
    """Raise NotConvertible for values that are saved by name, or of another pack and not as many as the widgets."""
    if node.by_name:
        raise refused(node.where, "has its values saved by name, which only the JavaScript of its pack can read")
    module = str((node.definition or {}).get("python_module") or "")
    own = (info.get(OWN_NODE) or {}).get("python_module")
    if module.startswith("custom_nodes.") and module != own and node.uncounted:
        raise refused(
            node.where,
            f"is saved with {node.uncounted} than it has widgets, by JavaScript of its pack "
            f"({module.removeprefix('custom_nodes.')}) or by another version of it",
        )


def remarks_on(node: Node, inputs: Mapping[str, Any]) -> list[str]:
    """What should be looked at though the page says nothing. inputs: those that are sent."""
    remarks = []
    if node.uncounted:
        kept = "the last ones are dropped" if node.uncounted.endswith("more") else "the last ones keep their defaults"
        remarks.append(
            f"{node.where} is saved with {node.uncounted} than it has widgets, probably by another version of it; "
            f"{kept}, "
            "as in ComfyUI's page."
        )
    required = (node.definition or {}).get("input", {}).get("required") or {}
    open_slots = [slot.name for slot in node.slots if slot.name in required and slot.name not in inputs]
    if open_slots:
        remarks.append(f"{node.where}: {', '.join(open_slots)} has no connection; the server may refuse the workflow.")
    return remarks


def check_value(node: Node, name: str, item: InputSpec, value: Any) -> None:
    """Raise NotConvertible for a value that is of another type than the input's."""
    problem = _problem(node, name, item, value)
    if problem:
        where = f"{node.where}: `{name}`"
        raise refused(
            where,
            f"is {json.dumps(value)}, where {problem}",
            "look at it in ComfyUI, and save it with File > Export (API)",
        )


def _problem(node: Node, name: str, item: InputSpec, value: Any) -> str:
    kind = item.widget
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "INT" and not _whole(value):
        return "a whole number is needed"
    if kind == "FLOAT" and not number and not _numeric(value):
        return "a number is needed"
    if kind == "BOOLEAN" and not (isinstance(value, bool) or number and value in (0, 1)):
        return "true or false is needed"
    if kind == "STRING" and not isinstance(value, str) and not number:
        return "a text is needed"
    widget = node.widget(name)
    choices = choices_of(node, widget) if widget else []
    if kind == DYNAMIC_COMBO and value not in choices:
        return f"one of {', '.join(map(str, choices))} is needed"
    if kind == "COMBO" and choices and all(isinstance(choice, str) for choice in choices):
        if not isinstance(value, str):
            return "one of its choices is needed"
        # Files that a sweep sends there before a run are no choices yet.
        uploaded = any(name.endswith("_upload") and given for name, given in item.options.items())
        if node.uncounted and not uploaded and value not in choices:
            return f"one of its choices is needed, and the node is saved with {node.uncounted} than it has widgets"
    return ""


def _numeric(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lstrip("+-").isdecimal()
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)
    )


def check_connection(node: Node, slot: Slot, origin: Node, place: int) -> None:
    """Raise NotConvertible for a connection between different types, as from an older version of a node."""
    given = origin.outputs[place].type if place < len(origin.outputs) else None
    if given is None or not fits(given, slot.type):
        problem = f"takes {slot.type}, but is connected to {given or 'nothing'} of {origin.where}"
        raise refused(f"{node.where}: `{slot.name}`", problem, "connect it again in ComfyUI")
