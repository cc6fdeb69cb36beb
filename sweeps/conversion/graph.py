"""A workflow in UI form as it is in the file: graphs with nodes, slots and links, in both versions of the format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .errors import refused

MUTED, BYPASSED = 2, 4
# In a subgraph's links, the frame that its inputs come from and its outputs go to.
FRAME_IN, FRAME_OUT = "-10", "-20"
Json = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """A connection. origin and target: ids of nodes in the same graph, or FRAME_IN and FRAME_OUT."""

    id: int
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass
class Graph:
    """The root or the definition of a subgraph; `nodes` are as they are saved, by id and in the file's order."""

    id: str
    name: str
    nodes: dict[str, Json]
    links: dict[int, Link]
    inputs: list[Json] = field(default_factory=list)
    outputs: list[Json] = field(default_factory=list)


@dataclass
class File:
    """A saved workflow: the root graph and the definitions of its subgraphs by id, the inner ones first."""

    root: Graph
    subgraphs: dict[str, Graph]


def read(data: Mapping[str, Any]) -> File:
    """The graphs of a saved workflow. Raises NotConvertible for a file that has not the shape of one."""
    from .shape import check_shape

    check_shape(data)
    root: Json = numbers(dict(data))
    definitions = (root.get("definitions") or {}).get("subgraphs") or []
    _renumber(root, definitions)
    subgraphs = {str(each["id"]): _graph(each) for each in definitions}
    return File(_graph(root), {key: subgraphs[key] for key in _inner_first(subgraphs)})


def numbers(value: Any) -> Any:
    """A copy of JSON with its numbers as JavaScript has them: 1.0 is 1, and an integer has 53 bits."""
    if isinstance(value, dict):
        return {key: numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        try:
            return int(Decimal(repr(float(value))))
        except OverflowError:
            return math.inf
    return value


def _graph(data: Json) -> Graph:
    links = [_link(link) for link in data.get("links") or () if link is not None]
    return Graph(
        str(data.get("id", "")),
        str(data.get("name") or ""),
        {str(node["id"]): node for node in data["nodes"]},
        {link.id: link for link in links},
        data.get("inputs") or [],
        data.get("outputs") or [],
    )


def _link(link: Any) -> Link:
    if isinstance(link, list):
        number, origin, origin_slot, target, target_slot = link[:5]
    else:
        number, origin, origin_slot, target, target_slot = (
            link[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        )
    return Link(int(number), str(origin), int(origin_slot), str(target), int(target_slot))


def _inner_first(subgraphs: Mapping[str, Graph]) -> list[str]:
    """The ids of the definitions, each after those that it has inside."""
    inner_first: list[str] = []
    open_ids: set[str] = set()

    def visit(key: str) -> None:
        if key in inner_first:
            return
        if key in open_ids:
            raise refused(f"the subgraph {subgraphs[key].name!r}", "contains itself", "repair it in ComfyUI")
        open_ids.add(key)
        for node in subgraphs[key].nodes.values():
            if str(node["type"]) in subgraphs:
                visit(str(node["type"]))
        inner_first.append(key)

    for key in subgraphs:
        visit(key)
    return inner_first


def _number(value: Any) -> int | None:
    """A node id as a number; None for an id that is none."""
    text = str(value)
    return int(text) if text.isdecimal() and str(int(text)) == text else None


def _renumber(data: Json, definitions: list[Json]) -> None:
    """Give nodes in subgraphs whose ids are taken new ones, as the page does when it opens a file."""
    taken = {str(node["id"]) for node in data["nodes"] if isinstance(node["id"], int)}
    last = max(int(data.get("last_node_id") or 0), int((data.get("state") or {}).get("lastNodeId") or 0))
    new_ids: dict[str, dict[str, str]] = {}
    for graph in definitions:
        changed: dict[str, str] = {}
        for node in graph.get("nodes") or ():
            old = str(node["id"])
            if old in taken:
                last += 1
                while str(last) in taken:
                    last += 1
                changed[old] = str(last)
                node["id"] = last
                taken.add(str(last))
            else:
                taken.add(old)
                last = max(last, _number(old) or 0)
        for link in graph.get("links") or ():
            for end in ("origin_id", "target_id"):
                link[end] = changed.get(str(link[end]), link[end])
        new_ids[str(graph["id"])] = changed
    if not any(new_ids.values()):
        return
    for graph in (data, *definitions):
        for node in graph.get("nodes") or ():
            changed = new_ids.get(str(node["type"]), {})
            for entry in _proxies(node):
                entry[0] = changed.get(str(entry[0]), entry[0])


def _proxies(node: Json) -> Iterable[list[Any]]:
    entries = (node.get("properties") or {}).get("proxyWidgets")
    return [entry for entry in entries if isinstance(entry, list) and entry] if isinstance(entries, list) else []
