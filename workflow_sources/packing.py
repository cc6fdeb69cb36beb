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
WIDTH, NARROW = 320, 280  # of a node on top: a blueprint's, an example's
TITLE, LINE, WIDGET, TEXT = 30, 22, 34, 110  # heights: of a title, a socket, a widget, a widget of several lines
LINKED = 64  # and of such a widget that a link stands for
APART = 80  # between nodes inside
AFTER_A_RUN = ("fixed", "increment", "decrement", "randomize")

_Node = dict[str, Any]
_Place = tuple[int, str]  # a node inside, and its input
_Graph = dict[str, Any]


@dataclass(frozen=True)
class Packing:
    """Which nodes become one on top.

    node: its id. inputs, promoted: names on top, and the inputs and widgets inside that they go to, as (node, name).
    outputs: names on top, and the (node, slot) that gives them. texts: promoted widgets of several lines.
    lines: the nodes as they stand inside; without it from left to right. key: of the ids, where titles are not alone.
    """

    node: int
    title: str
    nodes: Sequence[int]
    inputs: Mapping[str, Sequence[_Place]]
    promoted: Mapping[str, _Place]
    outputs: Mapping[str, tuple[int, int]]
    texts: Sequence[str] = ()
    category: str = ""
    description: str = ""
    lines: Sequence[Sequence[int | None]] = ()
    key: str = ""
    width: int = WIDTH

    def uuid(self, what: str) -> str:
        """An id that is the same each time."""
        words = ("deft-nodes", self.key, self.title, what)
        return str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join(word for word in words if word)))


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


def own_id(number: Any) -> str:
    """A node's own id, of the one that the page sends: 40 of "20:40"."""
    return str(number).rpartition(":")[2]


def of_layout(graph: _Graph, layout: Mapping[str, Any], example: str) -> Packing:
    """What a layout puts into one node: its `node`, `title` and `lines`, the widgets `on_top` and `names` for sockets.

    Inputs and outputs are those that links of the graph come to and go from. An input has the name of the socket
    inside, an output that of the node's; `names` has others, by "node.socket".
    """
    rows = [[place for place in line if place is not None] for line in layout["lines"]]
    inner = {number for line in rows for number in line}
    nodes = {node["id"]: node for node in graph["nodes"]}
    names: Mapping[str, str] = layout.get("names", {})
    promoted = {name: (place[0], place[1]) for name, place in layout.get("on_top", {}).items()}
    inputs: dict[tuple[int, int], list[_Place]] = {}
    outputs: dict[tuple[int, int], None] = {}
    for _, origin, slot, target, place, _ in graph["links"]:
        if target in inner and origin not in inner:
            inputs.setdefault((origin, slot), []).append((target, nodes[target]["inputs"][place]["name"]))
        elif origin in inner and target not in inner:
            outputs[origin, slot] = None

    def unique(taken: Mapping[str, Any], name: str) -> str:
        return next(one for one in (name, *(f"{name} {number}" for number in range(2, 100))) if one not in taken)

    in_order = [number for line in rows for number in line]
    in_names: dict[str, list[_Place]] = {}
    for places in inputs.values():
        # A socket before a widget that a link stands for: the page shows such an input as a widget.
        places.sort(key=lambda place: ("widget" in _input(nodes[place[0]], place[1]), in_order.index(place[0])))
        first = places[0]
        name = next((names[key] for key in (f"{node}.{own}" for node, own in places) if key in names), None)
        in_names[unique({**in_names, **promoted}, name or first[1].rpartition(".")[2])] = places

    def place_of(item: tuple[str, list[_Place]]) -> tuple[bool, int, int]:
        (node, own), *_ = item[1]
        return "widget" in _input(nodes[node], own), in_order.index(node), slot_of(nodes[node], own)

    sockets = sorted(in_names.items(), key=place_of)
    out_names: dict[str, tuple[int, int]] = {}
    for node, slot in sorted(outputs, key=lambda place: (in_order.index(place[0]), place[1])):
        own = nodes[node]["outputs"][slot]["name"]
        out_names[unique(out_names, names.get(f"{node}.{own}", own.lower()))] = (node, slot)
    return Packing(
        node=layout["node"],
        title=layout["title"],
        nodes=in_order,
        inputs=dict(sockets),
        promoted=promoted,
        outputs=out_names,
        texts=layout.get("texts", ()),
        lines=layout["lines"],
        key=example,
        width=layout.get("width", NARROW),
    )


def _input(node: _Node, name: str) -> dict[str, Any]:
    """An input of a node, by its name."""
    return node["inputs"][slot_of(node, name)]


def widget_value(node: _Node, name: str) -> Any:
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


def slot_of(node: _Node, name: str) -> int:
    """The place of an input among a node's."""
    return next(place for place, item in enumerate(node["inputs"]) if item["name"] == name)


def pack(graph: _Graph, packing: Packing) -> None:
    """Put nodes of a graph, as the page has written it, into one on top. Links to and from them go there.

    Raises:
        ValueError: a link from outside to an input, or to outside from an output, that the packing does not name.
    """
    inner = {node["id"]: node for node in graph["nodes"] if node["id"] in packing.nodes}
    inside = _Inside()
    names = [*packing.inputs, *packing.promoted]
    targets: dict[_Place, int] = {
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
    inputs, outputs, widgets = [], [], {}
    for top, name in enumerate(names):
        places = packing.inputs.get(name) or [packing.promoted[name]]
        kinds = []
        numbers = []
        place_of_first = tuple(places[0])
        for node_id, own_name in places:
            own_slot = slot_of(inner[node_id], own_name)
            item = inner[node_id]["inputs"][own_slot]
            kinds.append(item["type"])
            item["link"] = inside.add((INPUT, top), (node_id, own_slot), item["type"])
            numbers.append(item["link"])
            if place_of_first == (node_id, own_name) and "widget" in item:
                widgets[name] = widget_value(inner[node_id], own_name)
        inputs.append({"id": packing.uuid(f"input {name}"), "name": name, "type": kinds[0], "linkIds": numbers})
    for top, (name, (node_id, own_slot)) in enumerate(packing.outputs.items()):
        item = inner[node_id]["outputs"][own_slot]
        own = inside.add((node_id, own_slot), (OUTPUT, top), item["type"])
        item["links"].append(own)
        outputs.append({"id": packing.uuid(f"output {name}"), "name": name, "type": item["type"], "linkIds": [own]})
    right, bottom = _lined_up(inner, packing.lines) if packing.lines else _place(list(inner.values()), inside.links)
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
    rows = max(len(inputs) - len(widgets), len(packing.outputs))
    heights = [TEXT if name in packing.texts else LINKED if name in packing.inputs else WIDGET for name in widgets]
    height = 30 + LINE * rows + sum(heights)
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] not in inner] + [
        {
            "id": packing.node,
            "type": packing.uuid("subgraph"),
            "pos": [0, 0],
            "size": [packing.width, height],
            "flags": {},
            "order": max(node["order"] for node in inner.values()),
            "mode": 0,
            "inputs": [
                {
                    "name": item["name"],
                    "type": item["type"],
                    **({"widget": {"name": item["name"]}} if item["name"] in widgets else {}),
                    "link": entering.get(top),
                }
                for top, item in enumerate(inputs)
            ],
            "outputs": [
                {"name": item["name"], "type": item["type"], "links": on_top[top]} for top, item in enumerate(outputs)
            ],
            "title": packing.title,
            "properties": {},
            "widgets_values": list(widgets.values()),
        }
    ]
    graph["links"] = outer
    graph["last_node_id"] = max(node["id"] for node in graph["nodes"])


def _drop_link(graph: _Graph, origin: int, slot: int, number: int) -> None:
    """Take a link from its origin, where one to the node on top stands for several."""
    for node in graph["nodes"]:
        if node["id"] == origin:
            node["outputs"][slot]["links"].remove(number)


def _place(nodes: list[_Node], links: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Place nodes from left to right, each behind those that it takes from; the width and height that they take."""
    depth: dict[int, int] = {}

    def depth_of(number: int) -> int:
        if number not in depth:
            before = [link["origin_id"] for link in links if link["target_id"] == number and link["origin_id"] > 0]
            depth[number] = max((1 + depth_of(one) for one in before), default=0)
        return depth[number]

    columns: dict[int, list[_Node]] = {}
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


def _lined_up(nodes: Mapping[int, _Node], lines: Sequence[Sequence[int | None]]) -> tuple[int, int]:
    """Place nodes as a layout has them; the width and height that they take."""
    widths = [0] * max(map(len, lines))
    for line in lines:
        for column, number in enumerate(line):
            if number is not None:
                widths[column] = max(widths[column], round(nodes[number]["size"][0]))
    top = TITLE
    for line in lines:
        for column, number in enumerate(line):
            if number is not None:
                nodes[number]["pos"] = [sum(widths[:column]) + APART * column, top]
        top += max(round(nodes[number]["size"][1]) for number in line if number is not None) + APART
    return sum(widths) + APART * (len(widths) - 1), top


def flattened(graph: Mapping[str, Any]) -> _Graph:
    """A graph without its subgraphs, its nodes with their own ids and its links in order: for packing it anew."""
    flat = unpacked(graph)
    nodes = sorted(flat["nodes"], key=lambda node: int(own_id(node["id"])))
    by_id: dict[int, _Node] = {}
    for node in nodes:
        node["id"] = int(own_id(node["id"]))
        by_id[node["id"]] = node
        for item in node["outputs"]:
            item["links"] = []
    links = sorted([[0, int(own_id(a)), b, int(own_id(c)), d, kind] for _, a, b, c, d, kind in flat["links"]])
    for number, link in enumerate(links, 1):
        link[0] = number
        by_id[link[1]]["outputs"][link[2]]["links"].append(number)
        by_id[link[3]]["inputs"][link[4]]["link"] = number
    without = {key: value for key, value in flat.items() if key != "definitions"}
    return {
        **without,
        "nodes": nodes,
        "links": links,
        "last_node_id": max(by_id, default=0),
        "last_link_id": len(links),
    }


def unpacked(graph: Mapping[str, Any]) -> _Graph:
    """A graph without its subgraphs: nodes inside have the ids that the page sends, links go to and from them."""
    definitions = {one["id"]: one for one in graph.get("definitions", {}).get("subgraphs", [])}
    nodes: list[_Node] = []
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
