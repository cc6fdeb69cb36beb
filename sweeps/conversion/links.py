"""The origin of a connection: through muted and bypassed nodes, reroutes, Set and Get, into and out of subgraphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import check_known
from .errors import refused
from .graph import BYPASSED, FRAME_IN, MUTED, Graph
from .hosts import PRIMITIVE, Opened
from .nodes import Node, Slot, fits

REROUTES = {"Reroute", "Reroute (rgthree)"}
_NOTES = {"Note", "MarkdownNote"}
GET, SET = "GetNode", "SetNode"
# Nodes of the page alone: they are never sent.
VIRTUAL = {PRIMITIVE, GET, SET, *REROUTES, *_NOTES}
Path = tuple[Node, ...]  # the hosts from the root to a node's graph


@dataclass(frozen=True)
class NodeOutput:
    """An output of a node that is sent."""

    node: Node
    path: Path
    slot: int


@dataclass(frozen=True)
class HostValue:
    """What a host gives to a widget inside. path: to the host. slot: the host's, a widget for people."""

    value: Any
    host: Node
    path: Path
    slot: Slot


class Resolver:
    """Follows connections in an opened workflow."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def input(
        self, node: Node, path: Path, place: int, kind: str | None = None, seen: frozenset[Any] = frozenset()
    ) -> NodeOutput | HostValue | None:
        """What an input slot gets; None if nothing. Raises NotConvertible where the page fails."""
        slot = node.slots[place]
        step = (node, path, place)
        if step in seen:
            raise refused(f"{node.where}: `{slot.name}`", "its connection runs in a circle", "repair it in ComfyUI")
        if slot.link is None:
            return None
        link = node.graph.links.get(slot.link)
        if link is None:
            raise self._broken(node, slot)
        seen |= {step}
        if link.origin == FRAME_IN and path:
            return self._outside(node, slot, path, link.origin_slot, seen)
        origin = self.opened.of(node.graph).get(link.origin)
        if origin is None:
            raise self._broken(node, slot)
        return self.output(origin, path, link.origin_slot, slot.type if kind is None else kind, seen)

    def _broken(self, node: Node, slot: Slot) -> Exception:
        return refused(
            f"{node.where}: `{slot.name}`",
            "its connection leads to a node that is not there",
            "connect it again in ComfyUI",
        )

    def _outside(
        self, node: Node, slot: Slot, path: Path, place: int, seen: frozenset[Any]
    ) -> NodeOutput | HostValue | None:
        host = path[-1]
        if place >= len(host.slots):
            raise self._broken(node, slot)
        outer = host.slots[place]
        if outer.link is not None:
            return self.input(host, path[:-1], place, None, seen)
        return HostValue(self.opened.value(outer), host, path[:-1], outer) if outer.source else None

    def output(
        self, node: Node, path: Path, place: int, kind: str, seen: frozenset[Any]
    ) -> NodeOutput | HostValue | None:
        """What an output slot gives to an input of a type."""
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            through = self._bypass(node, place, kind)
            return None if through is None else self.input(node, path, through, None, seen)
        if node.host:
            return self._inside(node, path, place, kind, seen)
        if node.type == GET:
            return self._set_node(node, path, place, kind, seen)
        if node.type in REROUTES or node.type == SET:
            if place >= len(node.slots) or node.slots[place].link not in node.graph.links:
                return None
            return self.input(node, path, place, kind, seen)
        if node.type in VIRTUAL:
            return None
        return NodeOutput(node, path, place)

    def _bypass(self, node: Node, place: int, kind: str) -> int | None:
        """The input that a bypassed node's output is connected through to."""
        check_known(node)
        slots = node.slots
        if kind in ("*", ""):
            return place if place < len(slots) else 0 if slots else None
        given = node.outputs[place].type if place < len(node.outputs) else "*"
        if place < len(slots) and fits(slots[place].type, given) and fits(slots[place].type, kind):
            return place
        for number, slot in enumerate(slots):
            if slot.type == kind:
                return number
        for number, slot in enumerate(slots):
            if fits(slot.type, given) and fits(slot.type, kind):
                return number
        return None

    def _inside(
        self, host: Node, path: Path, place: int, kind: str, seen: frozenset[Any]
    ) -> NodeOutput | HostValue | None:
        graph = host.host
        assert graph is not None
        if place >= len(graph.outputs):
            raise refused(host.where, f"has no output {place}", "connect it again in ComfyUI")
        for number in graph.outputs[place].get("linkIds") or ():
            link = graph.links.get(number)
            if link is None:
                continue
            node = self.opened.of(graph).get(link.origin)
            if node is None:
                raise refused(
                    f"{host.where}: output `{graph.outputs[place].get('name')}`",
                    "is wired straight through the subgraph, which the page cannot run",
                    "connect it to a node inside",
                )
            return self.output(node, (*path, host), link.origin_slot, kind, seen)
        return None

    def _set_node(
        self, get: Node, path: Path, place: int, kind: str, seen: frozenset[Any]
    ) -> NodeOutput | HostValue | None:
        """The value of the Set node of the same name, in the Get node's graph or in one around it."""
        name = _first_value(get)
        graph: Graph = get.graph
        while True:
            for node in self.opened.of(graph).values():
                if node.type == SET and _first_value(node) == name:
                    return self.output(node, path, 0, kind, seen)
            if not path:
                raise refused(get.where, f"there is no Set node named {name!r}", "repair it in ComfyUI")
            graph, path = path[-1].graph, path[:-1]


def _first_value(node: Node) -> Any:
    values = node.saved.get("widgets_values")
    return values[0] if isinstance(values, list) and values else None
