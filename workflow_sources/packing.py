"""Nodes of a workflow put into one node on top (a subgraph), in the form that the page writes, and back.

Front end 1.45 runs the values of the nodes inside, later ones those of the node on top: both are written alike. What is
promoted is a link from outside to a widget's input, as the page has it; `proxyWidgets` are read differently elsewhere.
A DynamicCombo cannot be promoted: the page does not make the widgets of another option then.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

INPUT, OUTPUT = -10, -20  # the ids that the page gives the two ends of a subgraph
WIDTH, LINE, TITLE, WIDGET, TEXT = 320, 22, 30, 34, 110  # of nodes on top; of a widget, and one of several lines
APART = 80  # between nodes inside
AFTER_A_RUN = ("fixed", "increment", "decrement", "randomize")

Node = dict[str, Any]
Place = tuple[int, str]  # a node inside, and its input
Graph = dict[str, Any]


@dataclass(frozen=True)
class Packing:
    """Which nodes become one on top.

    node: its id. inputs, promoted: names on top, and the inputs and widgets inside that they go to, as (node, name).
    outputs: names on top, and the (node, slot) that gives them. texts: promoted widgets of several lines.
    """

    node: int
    title: str
    nodes: Sequence[int]
    inputs: Mapping[str, Sequence[Place]]
    promoted: Mapping[str, Place]
    outputs: Mapping[str, tuple[int, int]]
    texts: Sequence[str] = ()
    category: str = ""
    description: str = ""

    def uuid(self, what: str) -> str:
        """An id that is the same each time."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"deft-nodes {self.title} {what}"))


@dataclass
class _Inside:
    """The links inside a subgraph as they are made."""

    links: list[dict[str, Any]] = field(default_factory=list)

    def add(self, origin: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        """A link; its id."""
        number = len(self.links) + 1
        self.links.append(
            {
                "id": number,
                "origin_id": origin[0],
                "origin_slot": origin[1],
                "target_id": target[0],
                "target_slot": target[1],
                "type": kind,
            }
        )
        return number


def named(prompt: Mapping[str, Any], packings: Sequence[Packing]) -> dict[str, Any]:
    """A workflow in API form with the ids that the page sends: "20:40" for node 40 in node 20."""
    ids = {str(inner): f"{packing.node}:{inner}" for packing in packings for inner in packing.nodes}

    def value(of: Any) -> Any:
        return [ids.get(of[0], of[0]), *of[1:]] if isinstance(of, list) else of

    return {
        ids.get(number, number): {**node, "inputs": {name: value(one) for name, one in node["inputs"].items()}}
        for number, node in prompt.items()
    }


def widget_value(node: Node, name: str) -> Any:
    """The value of a node's widget. Behind a seed may stand what happens with it after a run, which is no input."""
    values = iter(node["widgets_values"])
    value = next(values, None)
    for item in node["inputs"]:
        if "widget" not in item:
            continue
        if item["name"] == name:
            return value
        value = next(values, None)
        if item["name"].endswith("seed") and value in AFTER_A_RUN:
            value = next(values, None)
    raise ValueError(f"node {node['id']} has no widget {name}")


def slot_of(node: Node, name: str) -> int:
    """The place of an input among a node's."""
    return next(place for place, item in enumerate(node["inputs"]) if item["name"] == name)


def pack(graph: Graph, packing: Packing) -> None:
    """Put nodes of a graph, as the page has written it, into one on top. Links to and from them go there.

    Raises:
        ValueError: a link from outside to an input, or to outside from an output, that the packing does not name.
    """
    inner = {node["id"]: node for node in graph["nodes"] if node["id"] in packing.nodes}
    inside = _Inside()
    names = [*packing.inputs, *packing.promoted]
    targets: dict[Place, int] = {
        place: names.index(name) for name, places in packing.inputs.items() for place in places
    } | {place: names.index(name) for name, place in packing.promoted.items()}
    origins = {place: number for number, place in enumerate(packing.outputs.values())}
    outer: list[list[Any]] = []
    on_top: dict[int, list[int]] = {number: [] for number in range(len(packing.outputs))}
    entering: dict[int, int] = {}
    for node in inner.values():
        for item in node["inputs"]:
            item["link"] = None
        for item in node["outputs"]:
            item["links"] = []
    for number, origin, slot, target, place, kind in graph["links"]:
        if origin in inner and target in inner:
            own = inside.add((origin, slot), (target, place), kind)
            inner[origin]["outputs"][slot]["links"].append(own)
            inner[target]["inputs"][place]["link"] = own
        elif target in inner:
            name = inner[target]["inputs"][place]["name"]
            if (target, name) not in targets:
                raise ValueError(f"{packing.title}: no input for {name} of node {target}")
            top = targets[target, name]
            if top not in entering:
                entering[top] = number
                outer.append([number, origin, slot, packing.node, top, kind])
            else:
                _drop_link(graph, origin, slot, number)
        elif origin in inner:
            if (origin, slot) not in origins:
                raise ValueError(f"{packing.title}: no output for {slot} of node {origin}")
            on_top[origins[origin, slot]].append(number)
            outer.append([number, packing.node, origins[origin, slot], target, place, kind])
        else:
            outer.append([number, origin, slot, target, place, kind])
    inputs, outputs = [], []
    for top, name in enumerate(names):
        places = packing.inputs.get(name) or [packing.promoted[name]]
        kinds = []
        numbers = []
        for node_id, own_name in places:
            own_slot = slot_of(inner[node_id], own_name)
            item = inner[node_id]["inputs"][own_slot]
            kinds.append(item["type"])
            item["link"] = inside.add((INPUT, top), (node_id, own_slot), item["type"])
            numbers.append(item["link"])
        inputs.append({"id": packing.uuid(f"input {name}"), "name": name, "type": kinds[0], "linkIds": numbers})
    for top, (name, (node_id, own_slot)) in enumerate(packing.outputs.items()):
        item = inner[node_id]["outputs"][own_slot]
        own = inside.add((node_id, own_slot), (OUTPUT, top), item["type"])
        item["links"].append(own)
        outputs.append({"id": packing.uuid(f"output {name}"), "name": name, "type": item["type"], "linkIds": [own]})
    right, bottom = _place(list(inner.values()), inside.links)
    for items, left in ((inputs, -APART - 40), (outputs, right + APART)):
        for top, item in enumerate(items):
            item["pos"] = [left, TITLE + 20 * top]
    graph["definitions"] = {
        "subgraphs": [
            *graph.get("definitions", {}).get("subgraphs", []),
            {
                "id": packing.uuid("subgraph"),
                "version": 1,
                "state": {
                    "lastGroupId": 0,
                    "lastNodeId": max(inner),
                    "lastLinkId": len(inside.links),
                    "lastRerouteId": 0,
                },
                "revision": 0,
                "config": {},
                "name": packing.title,
                **({"category": packing.category} if packing.category else {}),
                **({"description": packing.description} if packing.description else {}),
                "inputNode": {"id": INPUT, "bounding": [-APART - 160, 0, 140, 40 + 20 * len(inputs)]},
                "outputNode": {"id": OUTPUT, "bounding": [right + APART, 0, 140, 40 + 20 * len(outputs)]},
                "inputs": inputs,
                "outputs": outputs,
                "widgets": [],
                "nodes": list(inner.values()),
                "groups": [],
                "links": inside.links,
                "extra": {},
            },
        ]
    }
    rows = max(len(packing.inputs), len(packing.outputs))
    height = 20 + LINE * rows + sum(TEXT if name in packing.texts else WIDGET for name in packing.promoted)
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] not in inner] + [
        {
            "id": packing.node,
            "type": packing.uuid("subgraph"),
            "pos": [0, 0],
            "size": [WIDTH, height],
            "flags": {},
            "order": max(node["order"] for node in inner.values()),
            "mode": 0,
            "inputs": [
                {
                    "name": item["name"],
                    "type": item["type"],
                    **({"widget": {"name": item["name"]}} if item["name"] in packing.promoted else {}),
                    "link": entering.get(top),
                }
                for top, item in enumerate(inputs)
            ],
            "outputs": [
                {"name": item["name"], "type": item["type"], "links": on_top[top]} for top, item in enumerate(outputs)
            ],
            "title": packing.title,
            "properties": {},
            "widgets_values": [widget_value(inner[place[0]], place[1]) for place in packing.promoted.values()],
        }
    ]
    graph["links"] = outer
    graph["last_node_id"] = max(node["id"] for node in graph["nodes"])


def _drop_link(graph: Graph, origin: int, slot: int, number: int) -> None:
    """Take a link from its origin, where one to the node on top stands for several."""
    for node in graph["nodes"]:
        if node["id"] == origin:
            node["outputs"][slot]["links"].remove(number)


def _place(nodes: list[Node], links: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Place nodes from left to right, each behind those that it takes from; the width and height that they take."""
    depth: dict[int, int] = {}

    def depth_of(number: int) -> int:
        if number not in depth:
            before = [link["origin_id"] for link in links if link["target_id"] == number and link["origin_id"] > 0]
            depth[number] = max((1 + depth_of(one) for one in before), default=0)
        return depth[number]

    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(depth_of(node["id"]), []).append(node)
    left = bottom = 0
    for column in sorted(columns):
        top = TITLE
        for node in columns[column]:
            node["pos"] = [left, top]
            top += round(node["size"][1]) + APART
        bottom = max(bottom, top)
        left += round(max(node["size"][0] for node in columns[column])) + APART
    return left - APART, bottom


def unpacked(graph: Mapping[str, Any]) -> Graph:
    """A graph without its subgraphs: nodes inside have the ids that the page sends, links go to and from them."""
    definitions = {one["id"]: one for one in graph.get("definitions", {}).get("subgraphs", [])}
    nodes: list[Node] = []
    links: list[list[Any]] = []
    into: dict[tuple[Any, int], list[tuple[str, int]]] = {}  # by the node on top and its input
    out_of: dict[tuple[Any, int], tuple[str, int]] = {}
    for node in json.loads(json.dumps(graph["nodes"])):
        definition = definitions.get(node["type"])
        if definition is None:
            nodes.append(node)
            continue
        host = node["id"]
        for inner in json.loads(json.dumps(definition["nodes"])):
            inner["id"] = f"{host}:{inner['id']}"
            for item in inner["inputs"]:
                item["link"] = None
            nodes.append(inner)
        for link in definition["links"]:
            origin, target = (link["origin_id"], link["origin_slot"]), (link["target_id"], link["target_slot"])
            if origin[0] == INPUT:
                into.setdefault((host, origin[1]), []).append((f"{host}:{target[0]}", target[1]))
            elif target[0] == OUTPUT:
                out_of[host, target[1]] = (f"{host}:{origin[0]}", origin[1])
            else:
                links.append([0, f"{host}:{origin[0]}", origin[1], f"{host}:{target[0]}", target[1], link["type"]])
    for _, origin, slot, target, place, kind in graph["links"]:
        source = out_of.get((origin, slot), (origin, slot))
        links += [[0, *source, *goal, kind] for goal in into.get((target, place), [(target, place)])]
    by_id = {node["id"]: node for node in nodes}
    for node in nodes:
        for item in node["inputs"]:
            item["link"] = None
    for number, link in enumerate(links, 1):
        link[0] = number
        by_id[link[3]]["inputs"][link[4]]["link"] = number
    return {**graph, "nodes": nodes, "links": links}
