"""Subgraphs: the nodes that stand for one (hosts), and the values that a host gives to widgets inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .graph import File, Graph, Json, Link, numbers
from .nodes import ABSENT, Info, Node, Output, Slot, Widget, node_of
from .values import give_values

PRIMITIVE = "PrimitiveNode"
BYPASSED_TO = "proxyBypassedToSubgraphInput"
_PREFIX = re.compile(r"^\s*(\d+)\s*:\s*(.+)$")


@dataclass
class Opened:
    """An opened workflow: the nodes of each graph by id ("" is the root), and the hosts of each subgraph.

    shared: a host has no values of its own, it shows those of the widgets inside (before the front end 1.47).
    """

    file: File
    shared: bool = False
    nodes: dict[str, dict[str, Node]] = field(default_factory=dict)
    hosts: dict[str, list[Node]] = field(default_factory=dict)

    def of(self, graph: Graph) -> dict[str, Node]:
        """The nodes of a graph."""
        return self.nodes["" if graph is self.file.root else graph.id]

    def every(self) -> Iterator[Node]:
        """All nodes, those of the root first."""
        for key in ("", *(key for key in self.nodes if key)):
            yield from self.nodes[key].values()

    def value(self, slot: Slot) -> Any:
        """The value that a host's slot gives to the widgets that it shows."""
        return slot.source[1].value if self.shared and slot.source else slot.value

    def target(self, graph: Graph, number: int) -> tuple[Node, Slot] | None:
        """The node and the slot that a link of a graph goes to."""
        link = graph.links.get(number)
        node = self.of(graph).get(link.target) if link else None
        slot = next((slot for slot in node.slots if slot.link == number), None) if node else None
        return (node, slot) if node and slot else None


def opened(file: File, info: Info, shared: bool = False) -> Opened:
    """A workflow as the page opens it, with the values of all widgets and hosts."""
    result = Opened(file, shared)
    kinds = {str(saved["type"]) for graph in (file.root, *file.subgraphs.values()) for saved in graph.nodes.values()}
    info = {kind: numbers(info[kind]) for kind in kinds if kind in info}
    for key, graph in (*file.subgraphs.items(), ("", file.root)):
        nodes: dict[str, Node] = {}
        result.nodes[key] = nodes
        for saved in graph.nodes.values():
            definition = file.subgraphs.get(str(saved["type"]))
            node = _host_of(saved, graph, definition) if definition else node_of(saved, graph, info)
            nodes[node.id] = node
            if definition:
                result.hosts.setdefault(definition.id, []).append(node)
        for node in nodes.values():
            if node.host:
                _give_host_values(result, node)
            else:
                give_values(node)
        for node in list(nodes.values()):
            if node.host and not shared:
                _Migration(result, node, node.host).run()
    return result


def _host_of(saved: Json, graph: Graph, definition: Graph) -> Node:
    title = str(saved.get("title") or definition.name)
    node = Node(str(saved["id"]), str(saved["type"]), title, int(saved.get("mode") or 0), graph, saved, host=definition)
    links = {str(each.get("name", "")): each.get("link") for each in saved.get("inputs") or ()}
    node.slots = [
        Slot(str(each["name"]), str(each.get("type", "*")), links.get(str(each["name"]))) for each in definition.inputs
    ]
    saved_outputs = saved.get("outputs") or []
    node.outputs = [
        Output(
            str(each.get("type", "*")), saved_outputs[number].get("links") or [] if number < len(saved_outputs) else []
        )
        for number, each in enumerate(definition.outputs)
    ]
    return node


def _bind(opened: Opened, host: Node, number: int) -> None:
    """Let a host's slot show the first widget inside that it is linked to, with that widget's value."""
    definition, slot = _definition(host), host.slots[number]
    for link in definition.inputs[number].get("linkIds") or ():
        target = opened.target(definition, link)
        shown = _shown(*target) if target else None
        if shown:
            slot.source, slot.value = shown
            slot.widget = slot.name
            return


def _shown(node: Node, slot: Slot) -> tuple[tuple[Node, Widget], Any] | None:
    """The widget behind a slot and its value, with a host's own value for it."""
    if node.host:
        return (slot.source, slot.value) if slot.source else None
    widget = node.widget(slot.widget) if slot.widget else None
    return ((node, widget), widget.value) if widget else None


def _definition(host: Node) -> Graph:
    assert host.host is not None
    return host.host


def _give_host_values(opened: Opened, host: Node) -> None:
    for number in range(len(host.slots)):
        _bind(opened, host, number)
    kept = {
        entry["originalEntry"][1]: entry["hostValue"]
        for entry in reversed(_quarantine(host))
        if entry["originalEntry"][0] == "-1" and entry.get("hostValue") is not None
    }
    saved = host.saved.get("widgets_values")
    values = list(saved) if isinstance(saved, list) else []
    number = 0
    for slot in host.slots:
        if not slot.source:
            continue
        if slot.name in kept:
            slot.value = kept[slot.name]
        elif number < len(values):
            slot.value = values[number]
        number += 1


def _quarantine(host: Node) -> list[Json]:
    entries = host.properties.get("proxyWidgetErrorQuarantine")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and _is_entry(entry.get("originalEntry")) and entry.get("attemptedAtVersion") == 1
        for entry in entries
    ):
        return []
    return entries


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) in (2, 3) and all(isinstance(part, str) for part in entry)


@dataclass
class _Entry:
    """One of a host's proxyWidgets: the node and the name of the widget inside, and the host's value for it."""

    node: str
    name: str
    beside: str
    value: Any
    plan: str = ""
    input: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.node, self.name, self.beside


class _Migration:
    """What the page does with proxyWidgets, by which older files say which widgets a host shows."""

    def __init__(self, opened: Opened, host: Node, definition: Graph) -> None:
        self.opened, self.host, self.definition = opened, host, definition
        self.nodes = opened.of(definition)

    def run(self) -> None:
        entries = self.host.properties.get("proxyWidgets")
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            return
        values = self.host.saved.get("widgets_values")
        values = values if isinstance(values, list) else []
        pending = [
            self._entry(each, values[number] if number < len(values) else None) for number, each in enumerate(entries)
        ]
        for entry in pending:
            self._plan(entry, pending)
        primitives: dict[str, list[_Entry]] = {}
        lost = []
        for entry in pending:
            if entry.plan == "linked":
                self._set(entry)
            elif entry.plan == "new":
                self._show(entry)
            elif entry.plan == "primitive":
                primitives.setdefault(entry.node, []).append(entry)
            elif entry.plan == "lost":
                lost.append(entry)
        for cohort in primitives.values():
            self._replace_primitive(cohort)
        for entry in lost:
            slot = self.host.slot(entry.name)
            if entry.node == "-1" and entry.value is not None and slot and slot.source:
                slot.value = entry.value

    def _entry(self, saved: list[str], value: Any) -> _Entry:
        node, name, *beside = saved
        entry = _Entry(node, name, beside[0] if beside else "", value)
        if not self._resolves(self.definition, node, name):
            while match := _PREFIX.match(entry.name):
                entry.beside, entry.name = str(int(match[1])), match[2]
        return entry

    def _resolves(self, definition: Graph, node_id: str, name: str) -> bool:
        """Whether there is a widget of this name in the node, or behind the slot of this name where it is a host."""
        node = self.opened.of(definition).get(node_id)
        if node is None:
            return False
        if not node.host:
            return node.widget(name) is not None
        source = self._source(node, name)
        return source is not None and self._resolves(node.host, *source)

    def _source(self, host: Node, name: str) -> tuple[str, str] | None:
        """The node inside and the widget, or the slot of a host inside, that a host's slot of this name leads to."""
        definition = _definition(host)
        for saved in definition.inputs:
            if saved.get("name") != name:
                continue
            for link in saved.get("linkIds") or ():
                target = self.opened.target(definition, link)
                if target is None:
                    continue
                node, slot = target
                if node.host:
                    return node.id, slot.name
                if slot.widget and node.widget(slot.widget):
                    return node.id, slot.widget
            return None
        return None

    def _plan(self, entry: _Entry, pending: list[_Entry]) -> None:
        for slot in self.host.slots:
            if self._source(self.host, slot.name) == (entry.node, entry.name):
                entry.plan, entry.input = "linked", slot.name
                return
        node = self.nodes.get(entry.node)
        if node is None:
            entry.plan = "lost"
        elif node.type == PRIMITIVE:
            marked = node.properties.get(BYPASSED_TO)
            if isinstance(marked, str) and self.host.slot(marked):
                entry.plan, entry.input = "linked", marked
            elif self._targets(node) or sum(each.node == entry.node for each in pending) > 1:
                entry.plan = "primitive"
        elif not entry.name.startswith("$$"):
            widget = self._widget(node, entry)
            if widget and (widget[1] is None or widget[1].eats or widget[1].sent):
                entry.plan = "new"

    def _widget(self, node: Node, entry: _Entry) -> tuple[Slot | None, Widget | None] | None:
        """The slot and the widget that an entry means; of a host inside, its slot."""
        if not node.host:
            widget = node.widget(entry.name)
            slot = next((slot for slot in node.slots if slot.widget == entry.name), None)
            return (slot, widget) if widget else None
        for slot in node.slots:
            source = self._source(node, slot.name)
            if entry.beside:
                fits = source == (entry.beside, entry.name)
            else:
                fits = slot.name == entry.name or (source is not None and source[1] == entry.name)
            if fits:
                return (slot, None) if slot.source else None
        return None

    def _targets(self, primitive: Node) -> list[Link]:
        links = primitive.outputs[0].links if primitive.outputs else []
        return [self.definition.links[link] for link in links if link in self.definition.links]

    def _set(self, entry: _Entry) -> None:
        slots = [slot for slot in self.host.slots if slot.name == entry.input]
        if len(slots) == 1 and slots[0].source and entry.value is not None:
            slots[0].value = entry.value

    def _show(self, entry: _Entry) -> None:
        node = self.nodes[entry.node]
        slot, _ = self._widget(node, entry) or (None, None)
        if slot is None:
            return
        entry.input = self._add_input(entry.name, slot.type)
        self._connect(entry.input, node, slot)
        self._set(entry)

    def _add_input(self, base: str, kind: str) -> str:
        """Give the subgraph, and all of its hosts, another input; returns its name."""
        taken = [each["name"] for each in self.definition.inputs]
        name, number = base, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        self.definition.inputs.append({"name": name, "type": kind, "linkIds": []})
        for host in self.opened.hosts[self.definition.id]:
            host.slots.append(Slot(name, kind))
        return name

    def _connect(self, name: str, node: Node, slot: Slot) -> None:
        """Link an input of the subgraph to a slot inside, in place of what the slot was linked to."""
        self._disconnect(slot)
        number = max(self.definition.links, default=0) + 1
        place = next(n for n, each in enumerate(self.definition.inputs) if each["name"] == name)
        self.definition.links[number] = Link(number, "-10", place, node.id, node.slots.index(slot))
        self.definition.inputs[place]["linkIds"].append(number)
        slot.link = number
        for host in self.opened.hosts[self.definition.id]:
            if not host.slots[place].source:
                _bind(self.opened, host, place)

    def _disconnect(self, slot: Slot) -> None:
        if slot.link is None:
            return
        number, slot.link = slot.link, None
        self.definition.links.pop(number, None)
        for place, each in enumerate(self.definition.inputs):
            if number in (each.get("linkIds") or ()):
                each["linkIds"] = [link for link in each["linkIds"] if link != number]
                for host in self.opened.hosts[self.definition.id]:
                    host.slots[place].source, host.slots[place].value, host.slots[place].widget = None, ABSENT, ""
                    _bind(self.opened, host, place)

    def _replace_primitive(self, cohort: list[_Entry]) -> None:
        """Let an input of the subgraph take over all that a primitive inside feeds."""
        primitive = self.nodes[cohort[0].node]
        links = primitive.outputs[0].links if primitive.outputs else []
        if len({entry.name for entry in cohort}) > 1 or not links:
            return
        targets = []
        for number in links:
            target = self.opened.target(self.definition, number)
            kind = primitive.outputs[0].type or "*"
            if target is None or (target[1].type != kind and "*" not in (target[1].type, kind)):
                return
            targets.append(target)
        limits = [_limits(shown[0][1]) for node, slot in targets if (shown := _shown(node, slot))]
        if any(each != limits[0] for each in limits):
            return
        title = primitive.title if primitive.title != PRIMITIVE else ""
        name = self._add_input(title or cohort[0].name, primitive.outputs[0].type or "*")
        for node, slot in targets:
            self._connect(name, node, slot)
        primitive.outputs[0].links = []
        different = {entry.identity: entry for entry in reversed(cohort)}.values()  # the first of those that are alike
        entry = next((entry for entry in reversed(different) if entry.value is not None), None)
        if entry:
            entry.input = name
            self._set(entry)
        primitive.saved.setdefault("properties", {})[BYPASSED_TO] = name


def _limits(widget: Widget) -> tuple[Any, ...]:
    """What two widgets must have alike to be fed by one input of a subgraph."""
    options = widget.item.options
    if widget.kind not in ("INT", "FLOAT"):
        return (widget.kind, bool(options.get("multiline")))
    step = options.get("step", 1 if widget.kind == "INT" else 0.5)
    display = options.get("display") if options.get("display") in ("slider", "knob", "gradientslider") else ""
    return widget.kind, options.get("min", 0), options.get("max", 2048), step, display
