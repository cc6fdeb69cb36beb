"""The nodes of a graph as the page holds them: slots and widgets by the server's definition, links by the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .definitions import (
    AUTOGROW,
    DYNAMIC_COMBO,
    MATCH,
    InputSpec,
    check_types,
    first_rows,
    grouped,
    input_of,
    inputs_of,
    rows_of,
)
from .errors import refused
from .graph import Graph, Json

Info = Mapping[str, Any]
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "nothing"})()  # JavaScript's undefined: it is not sent
# Values that only the browser makes: a picture of a scene, a recording, a drawing.
BROWSER_MADE = {
    "LOAD_3D": "a scene",
    "LOAD_3D_ADVANCED": "a scene",
    "WEBCAM": "a picture of the camera",
    "AUDIO_RECORD": "a recording",
    "PAINTER": "a drawing",
}


@dataclass
class Widget:
    """A widget. eats: takes one of the saved values. sent: is in the prompt. item: its description."""

    name: str
    kind: str
    item: InputSpec
    value: Any = ABSENT
    eats: bool = True
    sent: bool = True
    dynamic: bool = False  # whether {a|b} in its text is a choice
    fed: Node | None = field(default=None, compare=False)  # the primitive that its value is from


@dataclass
class Slot:
    """An input slot. link: a number in the graph's table. widget: the name of the widget that it belongs to, or ""."""

    name: str
    type: str
    link: int | None = None
    widget: str = ""
    # Of a subgraph's host: the widget inside that the slot shows, and the host's value for it.
    source: tuple[Node, Widget] | None = None
    value: Any = ABSENT
    fed: Node | None = field(default=None, compare=False)  # the primitive that the host's value is from


@dataclass
class Output:
    """An output slot. links: those that leave it, as saved."""

    type: str
    links: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """A node. definition: the server's, or None. saved: as it is in the file. host: the subgraph it stands for."""

    id: str
    type: str
    title: str
    mode: int
    graph: Graph
    saved: Json
    definition: Mapping[str, Any] | None = None
    slots: list[Slot] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    widgets: list[Widget] = field(default_factory=list)
    host: Graph | None = None
    uncounted: str = ""  # "2 values more", "1 value fewer": saved values that no widget takes, widgets that get none

    @property
    def where(self) -> str:
        """The node for a person."""
        inside = f" in the subgraph {self.graph.name!r}" if self.graph.name else ""
        return f"{self.title or self.type} ({self.id}){inside}"

    @property
    def properties(self) -> Json:
        return self.saved.get("properties") or {}

    def widget(self, name: str) -> Widget | None:
        """The widget of a name."""
        return next((widget for widget in self.widgets if widget.name == name), None)

    def slot(self, name: str) -> Slot | None:
        """The input slot of a name."""
        return next((slot for slot in self.slots if slot.name == name), None)


def node_of(saved: Json, graph: Graph, info: Info) -> Node:
    """The node of a saved one, before its values are given. One whose class is not there has the slots of the file."""
    kind = str(saved["type"])
    definition = info.get(kind)
    title = saved.get("title") or (definition or {}).get("display_name") or kind
    node = Node(str(saved["id"]), kind, str(title), int(saved.get("mode") or 0), graph, saved, definition)
    outputs = [Output(str(each.get("type", "")), each.get("links") or []) for each in saved.get("outputs") or ()]
    if definition is None:
        node.slots = [_saved_slot(each) for each in saved.get("inputs") or ()]
        node.outputs = outputs
        return node
    inputs = inputs_of(definition)
    check_types(node.where, inputs)
    for item in inputs:
        _add_socket(node, item)
    for item in inputs:
        _add_widget(node, item)
    if kind == "CustomCombo":
        node.widgets.append(Widget("index", "INT", InputSpec("index", "INT", {})))
        _add_option(node)
    _link_slots(node)
    types = [str(each) if not isinstance(each, (list, tuple)) else "COMBO" for each in definition.get("output") or ()]
    node.outputs = [
        Output("*" if kind == MATCH else kind, outputs[number].links if number < len(outputs) else [])
        for number, kind in enumerate(types)
    ] + outputs[len(types) :]
    return node


def _saved_slot(saved: Json) -> Slot:
    widget = (saved.get("widget") or {}).get("name") or ""
    return Slot(str(saved.get("name", "")), str(saved.get("type", "")), saved.get("link"), str(widget))


def _add_socket(node: Node, item: InputSpec) -> None:
    if item.widget:
        return
    if item.type == AUTOGROW:
        for row in range(first_rows(item)):
            for part in rows_of(item, row):
                _add_row_part(node, part)
    elif item.type == MATCH:
        allowed = (item.options.get("template") or {}).get("allowed_types", "*")
        node.slots.append(Slot(item.name, str(allowed)))
    else:
        node.slots.append(Slot(item.name, item.type))


def _add_row_part(node: Node, part: InputSpec) -> None:
    if node.slot(part.name) is None:
        _add_socket(node, part)
        _add_widget(node, part, created=False)


def _add_widget(node: Node, item: InputSpec, created: bool = True) -> None:
    """Add the widgets of an input and its slot. created: the node is being made; later widgets do not read {a|b}."""
    kind, options = item.widget, item.options
    if not kind:
        return
    widget = Widget(item.name, kind, item, _default(kind, options))
    node.widgets.append(widget)
    control = options.get("control_after_generate")
    if kind == "INT" and control is None:
        control = item.name in ("seed", "noise_seed")
    extra: list[str] = []
    if kind in ("INT", "FLOAT") and control:
        extra = ["control_after_generate"]
    elif kind == "COMBO" and control:
        extra = ["control_after_generate"] + ["control_filter_list"] * (not options.get("multiselect"))
    elif kind == "BOUNDING_BOX":
        extra = ["x", "y", "width", "height"]
    node.widgets += [Widget(name, "", InputSpec(name, "", {}), sent=False) for name in extra]
    if kind in ("IMAGEUPLOAD", "AUDIOUPLOAD"):
        widget.sent = False
    elif kind == "AUDIO_UI":
        widget.eats = widget.sent = False
    elif kind == "IMAGECOMPARE":
        widget.eats = False
    elif kind == "STRING":
        widget.dynamic = created and options.get("dynamicPrompts") is True
    elif kind == DYNAMIC_COMBO:
        _choose(node, widget, created)
    if not options.get("socketless"):
        node.slots.append(Slot(item.name, item.type, None, item.name))


def _default(kind: str, options: Mapping[str, Any]) -> Any:
    default = options.get("default")
    if kind == "COMBO":
        if options.get("multiselect"):
            return []
        choices = options.get("options")
        if default:
            return default
        if choices:
            return choices[0]
        return "Loading..." if options.get("remote") else ABSENT
    if kind == DYNAMIC_COMBO:
        return next((option["key"] for option in options.get("options") or ()), ABSENT)
    if default is not None:
        return default
    return {
        "INT": 0,
        "FLOAT": 0,
        "BOOLEAN": False,
        "COLOR": "#000000",
        "COLORS": [],
        "BOUNDING_BOXES": [],
        "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
        "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
        "RANGE": {"min": 0.0, "max": 1.0},
        "IMAGECOMPARE": ["", ""],
    }.get(kind, "")


def _choose(node: Node, combo: Widget, created: bool = False) -> None:
    """Make the inputs of the option that a dynamic combo has, in place of those of the last one."""
    prefix = f"{combo.name}."
    removed = [slot for slot in node.slots if slot.name.startswith(prefix)]
    node.slots = [slot for slot in node.slots if not slot.name.startswith(prefix)]
    node.widgets = [widget for widget in node.widgets if not widget.name.startswith(prefix)]
    options = {option["key"]: option.get("inputs") or {} for option in combo.item.options.get("options") or ()}
    groups = options.get(combo.value) if isinstance(combo.value, str) and combo.value else None
    if groups is None:
        return
    others, widgets = node.slots, node.widgets
    node.slots, node.widgets = [], []
    for name, spec in grouped(groups):
        item = input_of(prefix + name, spec)
        _add_socket(node, item)
        _add_widget(node, item, created)
    place = next(number for number, widget in enumerate(widgets) if widget is combo) + 1
    node.widgets = widgets[:place] + node.widgets + widgets[place:]
    place = next((number + 1 for number, slot in enumerate(others) if slot.name == combo.name), len(others))
    node.slots = others[:place] + node.slots + others[place:]
    for old in removed:
        slot = node.slot(old.name)
        if slot is not None and old.link is not None:
            slot.link = old.link
            _grow(node, old.name)


def _growing(node: Node) -> list[InputSpec]:
    """The growing inputs that the node has now, those of dynamic combos' options as well."""
    found: list[InputSpec] = []

    def collect(items: list[InputSpec]) -> None:
        for item in items:
            if item.type == AUTOGROW:
                found.append(item)
            elif item.type == DYNAMIC_COMBO:
                combo = node.widget(item.name)
                for option in item.options.get("options") or ():
                    if combo is not None and option["key"] == combo.value:
                        collect([input_of(f"{item.name}.{n}", s) for n, s in grouped(option.get("inputs") or {})])

    collect(inputs_of(node.definition or {}))
    return found


def _grow(node: Node, name: str) -> None:
    """Add the row after the one that this connected slot belongs to."""
    for item in _growing(node):
        if not name.startswith(f"{item.name}."):
            continue
        row = 0
        while parts := rows_of(item, row):
            if name in [part.name for part in parts]:
                _add_row(node, item, row + 1, [part.name for part in parts])
                return
            row += 1


def _add_row(node: Node, item: InputSpec, row: int, before: list[str]) -> None:
    parts = rows_of(item, row)
    if not parts:
        return
    links = {slot.name: slot.link for slot in node.slots}
    names = [part.name for part in parts]
    node.slots = [slot for slot in node.slots if slot.name not in names]
    place = max((number + 1 for number, slot in enumerate(node.slots) if slot.name in before), default=len(node.slots))
    behind, node.slots = node.slots[place:], node.slots[:place]
    for part in parts:
        _add_row_part(node, part)
    for slot in node.slots[place:]:
        slot.link = links.get(slot.name)
    node.slots += behind


def _link_slots(node: Node) -> None:
    """Give the slots the links of the file's slots of their names. Slots that only the file has stay at the end."""
    saved = {str(each.get("name", "")): each for each in node.saved.get("inputs") or ()}
    defined = {slot.name for slot in node.slots}
    for slot in node.slots:
        if slot.name in saved:
            slot.link = saved[slot.name].get("link")
            slot.widget = slot.widget or _saved_slot(saved[slot.name]).widget
    node.slots += [_saved_slot(each) for each in node.saved.get("inputs") or () if str(each.get("name")) not in defined]
    for slot in list(node.slots):
        if slot.link is not None:
            _grow(node, slot.name)


def _add_option(node: Node) -> None:
    name = f"option{len(node.widgets) - 1}"
    node.widgets.append(Widget(name, "STRING", InputSpec(name, "STRING", {}), ""))


def give_values(node: Node) -> None:
    """Give the widgets the saved values, in their order: no type is looked at, missing values keep the default."""
    values = node.saved.get("widgets_values")
    if isinstance(values, Mapping):
        if values and node.widgets:
            raise refused(node.where, "has its values saved by name, which is up to the JavaScript of its pack")
        values = []
    values = _without_forced(node, list(values or ()))
    number = 0
    while number < len(node.widgets) and values:
        widget = node.widgets[number]
        if widget.eats:
            set_value(node, widget, values.pop(0))
        number += 1
    missing = sum(widget.eats for widget in node.widgets[number:])
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
        _choose(node, widget)
    elif node.type == "CustomCombo" and widget is node.widgets[-1] and value:
        _add_option(node)


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
