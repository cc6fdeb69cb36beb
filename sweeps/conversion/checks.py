"""Signs that a value is not what it should be: it has another type, or JavaScript of a pack has a part in it."""

from __future__ import annotations

import json
from typing import Any

from .definitions import DYNAMIC_COMBO, InputSpec
from .errors import refused
from .links import NodeOutput, fits
from .nodes import Info, Node, Slot, choices_of

OWN_NODE = "DEFTTrainAdapter"


def check_count(node: Node, info: Info) -> None:
    """Raise NotConvertible for a node of another pack with more or fewer values than widgets."""
    module = str((node.definition or {}).get("python_module") or "")
    own = (info.get(OWN_NODE) or {}).get("python_module")
    if module.startswith("custom_nodes.") and module != own and node.uncounted:
        raise refused(
            node.where,
            f"is saved with {node.uncounted} than it has widgets, so that JavaScript of its pack "
            f"({module.removeprefix('custom_nodes.')}), or another version of it, has a part in them",
        )


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
        if node.uncounted and value not in choices:
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
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)


def check_connection(node: Node, slot: Slot, got: NodeOutput) -> None:
    """Raise NotConvertible for a connection between different types, as from an older version of a node."""
    outputs = got.node.outputs
    given = outputs[got.slot].type if got.slot < len(outputs) else None
    if given is None or not fits(given, slot.type):
        problem = f"takes {slot.type}, but is connected to {given or 'nothing'} of {got.node.where}"
        raise refused(f"{node.where}: `{slot.name}`", problem, "connect it again in ComfyUI")
