"""The values of a node's widgets: from the file, in the order of the widgets, and as they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .definitions import DYNAMIC_COMBO, inputs_of
from .nodes import ABSENT, Node, Widget, add_option, choose

# Values that only the browser makes: a picture of a scene, a recording, a drawing.
BROWSER_MADE = {
    "LOAD_3D": "a scene",
    "LOAD_3D_ADVANCED": "a scene",
    "WEBCAM": "a picture of the camera",
    "AUDIO_RECORD": "a recording",
    "PAINTER": "a drawing",
}


def give_values(node: Node) -> None:
    """Give the widgets the saved values, in their order: no type is looked at, missing values keep the default."""
    values = node.saved.get("widgets_values")
    if isinstance(values, Mapping):
        node.by_name = bool(values and node.widgets)
        values = []
    values = _without_forced(node, list(values or ()))
    number = 0
    while number < len(node.widgets) and values:
        widget = node.widgets[number]
        if widget.eats:
            set_value(node, widget, values.pop(0))
        number += 1
    missing = sum(widget.eats and widget.sent for widget in node.widgets[number:])
    count = len(values) or missing
    if count:
        node.uncounted = f"{count} value{'s' * (count > 1)} {'more' if values else 'fewer'}"


def _without_forced(node: Node, values: list[Any]) -> list[Any]:
    """Older files have values for inputs that have become sockets (forceInput); they are dropped if the count fits."""
    names = {widget.name for widget in node.widgets}
    dropped: list[bool] = []
    for item in inputs_of(node.definition or {}):
        forced = bool(item.options.get("forceInput"))
        if item.name in names or forced:
            dropped += [forced, False] if item.options.get("control_after_generate") else [forced]
    if len(dropped) != len(values):
        return values
    return [value for value, drop in zip(values, dropped) if not drop]


def set_value(node: Node, widget: Widget, value: Any) -> None:
    """Set a widget's value as the page does."""
    if node.type == "CustomCombo" and widget.name == "index":
        return
    if widget.kind == "STRING" and value is None and widget.item.options.get("multiline"):
        value = ""
    widget.value = value
    if widget.kind == DYNAMIC_COMBO:
        choose(node, widget)
    elif node.type == "CustomCombo" and widget is node.widgets[-1] and value:
        add_option(node)


def after_opening(node: Node) -> None:
    """What the page does to a node once all values are there."""
    for slot in node.slots:
        if slot.source and slot.value is None:
            slot.value = next(iter(choices_of(*slot.source)), None)
    if node.definition is None:
        return
    for widget in list(node.widgets):
        if widget.name == "sampler_name" and node.type in ("KSampler", "KSamplerAdvanced"):
            text = widget.value
            if isinstance(text, str) and text.startswith("sample_"):
                widget.value = text[7:]
        if widget.value is None or widget.value is ABSENT:
            choices = choices_of(node, widget)
            if choices:
                set_value(node, widget, choices[0])
    names = {widget.name for widget in node.widgets}
    node.slots = [slot for slot in node.slots if not slot.widget or slot.widget in names]


def choices_of(node: Node, widget: Widget) -> list[Any]:
    """The choices of a combo; none for other widgets."""
    if node.type == "CustomCombo" and widget.name == "choice":
        return [each.value for each in node.widgets[2:] if each.value]
    options = widget.item.options.get("options") or ()
    if widget.kind == DYNAMIC_COMBO:
        return [option["key"] for option in options]
    return list(options) if widget.kind == "COMBO" and not widget.item.options.get("multiselect") else []


def browser_made(widget: Widget) -> str:
    """What the browser alone can put into this widget; "" if nothing."""
    return BROWSER_MADE.get(widget.kind, "")


def sent_value(node: Node, widget: Widget) -> Any:
    """The widget's own value as it is sent; ABSENT if it is not."""
    value = widget.value
    if node.type == "CustomCombo" and widget.name == "index":
        choice = node.widgets[0].value
        texts = [each.value for each in node.widgets[2:]]
        value = texts.index(choice) if choice in texts else -1
    if isinstance(value, list):
        return {"__type__": "CURVE", "__value__": value} if widget.kind == "CURVE" else {"__value__": value}
    return value
