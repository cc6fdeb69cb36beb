"""Primitives: nodes of the page whose value is put into the widgets that they are connected to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .definitions import WIDGETS, InputSpec
from .errors import refused
from .file_names import replaced
from .graph import numbers
from .hosts import PRIMITIVE, Opened
from .nodes import ABSENT, Node, Slot, Widget
from .values import set_value

REPLACE = "Run widget replace on values"
# Differences that two widgets fed by one primitive may have.
IGNORED = {"default", "forceInput", "defaultInput", "control_after_generate", "multiline", "tooltip", "dynamicPrompts"}
_Target = tuple[Node, Slot]


def make_primitives(opened: Opened) -> None:
    """Give each primitive the widget of its first target, with the saved value or else the target's own."""
    for node in opened.every():
        if node.type != PRIMITIVE:
            continue
        targets = targets_of(opened, node)
        shown = _shown(opened, *targets[0]) if targets else None
        if shown is None:
            continue
        item, value = shown
        saved = node.saved.get("widgets_values")
        if isinstance(saved, list) and saved:
            value = saved[0]
        node.widgets = [Widget("value", item.widget or item.type, item, value)]
        _merge(opened, node, targets, item)


def targets_of(opened: Opened, primitive: Node) -> list[_Target]:
    """The nodes and slots that a primitive is connected to, in the order of its output's links."""
    links = primitive.outputs[0].links if primitive.outputs else []
    targets = [opened.target(primitive.graph, number) for number in links]
    return [target for target in targets if target]


def _shown(opened: Opened, node: Node, slot: Slot) -> tuple[InputSpec, Any] | None:
    """The description of the widget behind a slot, and its value."""
    if slot.source:
        return slot.source[1].item, opened.value(slot)
    widget = node.widget(slot.widget) if slot.widget else None
    if widget:
        return widget.item, widget.value
    return (InputSpec(slot.name, slot.type, {}), ABSENT) if slot.type in WIDGETS else None


def _merge(opened: Opened, node: Node, targets: list[_Target], item: InputSpec) -> None:
    """Keep a number within the limits of all targets, and to their common step, as the page does."""
    if item.widget not in ("INT", "FLOAT"):
        return
    merged: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = item.options
    for target in targets:
        shown = _shown(opened, *target)
        if shown is None or not target[1].widget or shown[0].widget != item.widget:
            continue
        both = _merged(options, shown[0].options)
        if both is None:
            continue
        merged = options = both
        value = node.widgets[0].value
        low, high = merged["min"], merged["max"]
        try:
            if _number(value) < low:
                value = low
            elif _number(value) > high:
                value = high
            node.widgets[0].value = rounded(item.widget, value, merged)
        except (TypeError, ValueError, OverflowError):
            raise refused(node.where, f"has {value!r} where a number is needed") from None


def _number(value: Any) -> float:
    return 0 if value is None else value if isinstance(value, (int, float)) else float(value)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    low = max(one.get("min", -math.inf), other.get("min", -math.inf))
    high = min(one.get("max", math.inf), other.get("max", math.inf))
    if low > high:
        return None
    limits = {"min": low, "max": high, "step": _common_step(one.get("step", 1), other.get("step", 1))}
    first, second = {**one, **limits}, {**other, **limits}
    names = {*first, *second} - IGNORED
    return {**first, **second} if all(first.get(name) == second.get(name) for name in names) else None


def _common_step(one: float, other: float) -> float:
    a, b = one, other
    while b:
        a, b = b, math.fmod(a, b)
    return abs(one * other) / a if isinstance(one, float) or isinstance(other, float) else abs(one * other) // a


def rounded(kind: str, value: Any, options: Mapping[str, Any]) -> Any:
    """A number as the page's widget keeps it once it has been set by hand or by a primitive."""
    number = _number(value)
    if kind == "INT":
        step = options.get("step") or 1
        if step == 1:
            return _round(number)
        offset = math.fmod(options.get("min", 0), step)
        result = _round((number - offset) / step) * step + offset
        return numbers(result)
    step = options.get("step", 0.5)
    digits = max(0, -math.floor(math.log10(step)))
    unit = 10**-digits if digits and not options.get("round") else options.get("round")
    if not unit:
        return value
    result = float(f"{_round(number / unit) * unit:.{digits}f}")
    return numbers(min(max(result, options.get("min", 0)), options.get("max", 2048)))


def _round(number: float) -> int:
    """JavaScript's Math.round: halves go up."""
    return number if isinstance(number, int) else math.floor(number + 0.5)


def push_values(opened: Opened) -> None:
    """Put the primitives' values into their targets, as the page does just before it makes a prompt."""
    for node in opened.every():
        if node.type != PRIMITIVE or not node.widgets:
            continue
        value = node.widgets[0].value
        if node.properties.get(REPLACE) and value:
            value = replaced(opened, node.where, value)
        for target, slot in targets_of(opened, node):
            _push(opened, target, slot, value, node)


def _push(opened: Opened, node: Node, slot: Slot, value: Any, primitive: Node) -> None:
    if slot.source and not opened.shared:
        slot.value, slot.fed = value, primitive
    elif node.host:
        place = node.slots.index(slot)
        for number in node.host.inputs[place].get("linkIds") or ():
            target = opened.target(node.host, number)
            if target:
                _push(opened, *target, value, primitive)
    elif widget := node.widget(slot.widget) if slot.widget else None:
        number = widget.kind in ("INT", "FLOAT") and value is not None and value is not ABSENT
        widget.fed = primitive
        set_value(node, widget, rounded(widget.kind, value, widget.item.options) if number else value)
