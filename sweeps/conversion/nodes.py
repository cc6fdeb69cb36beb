"""The nodes of a graph as the page holds them: slots and widgets by the server's definition, links by the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..schema import Info
from .definitions import (
    AUTOGROW,
    DYNAMIC_COMBO,
    MATCH,
    InputSpec,
    first_rows,
    grouped,
    input_of,
    inputs_of,
    rows_of,
    unknown_type,
)
from .graph import Graph, Json

ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "nothing"})()  # JavaScript's undefined: it is not sent


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
    unknown: InputSpec | None = None  # an input whose rules are not known here
    by_name: bool = False  # its values are saved by name
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


def fits(one: str, other: str) -> bool:
    """Whether slots of two types can be connected."""
    if one in ("", "*", "0") or other in ("", "*", "0"):
        return True
    return one == other or bool(set(one.lower().split(",")) & set(other.lower().split(",")))


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
    node.unknown = unknown_type(inputs)
    for item in inputs:
        _add_socket(node, item)
    for item in inputs:
        _add_widget(node, item)
    if kind == "CustomCombo":
        node.widgets.append(Widget("index", "INT", InputSpec("index", "INT", {})))
        add_option(node)
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
        choose(node, widget, created)
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


def choose(node: Node, combo: Widget, created: bool = False) -> None:
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
    growing: list[InputSpec] = []

    def collect(items: list[InputSpec]) -> None:
        for item in items:
            if item.type == AUTOGROW:
                growing.append(item)
            elif item.type == DYNAMIC_COMBO:
                combo = node.widget(item.name)
                for option in item.options.get("options") or ():
                    if combo is not None and option["key"] == combo.value:
                        collect([input_of(f"{item.name}.{n}", s) for n, s in grouped(option.get("inputs") or {})])

    collect(inputs_of(node.definition or {}))
    return growing


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


def add_option(node: Node) -> None:
    """Add the next option of a custom combo."""
    name = f"option{len(node.widgets) - 1}"
    node.widgets.append(Widget(name, "STRING", InputSpec(name, "STRING", {}), ""))
