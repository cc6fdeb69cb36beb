"""How an example's graph is laid out to be read: examples/NAME/layout.yaml onto what the front end has written.

A layout has a title, a note in Markdown (what it shows, what to change, what comes out), the node whose picture is the
thumbnail, and groups from left to right. A group with `below: true` stands under the one before it. Its lines are lists
of node ids, a line a row, from left to right; ~ leaves a place free, "1010-1016" are the nodes of those ids in one row.
Groups below each other with the same number of columns have them in the same places, and those with the same `row`
begin at the same height.

A value that would run below several columns of nodes, or that several lines take, is led by reroutes: above its line
where it stays in its group, else down before the groups and along the top of each, and over all groups between.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).resolve().parent / "examples"
COLOURS = {  # ComfyUI's own group colours, by what a group holds
    "note": "#444",
    "model": "#3f789e",
    "subject": "#8A8",
    "prompts": "#88A",
    "train": "#b58b2a",
    "sample": "#A88",
    "result": "#8AA",
}
MOST_SKIPPED = 1  # columns of nodes below which a value may run without reroutes
TITLE = 30  # height of a node's title, which is above its position
HEAD, FONT = 60, 36  # height of a group's title, and its font size
MARGIN, COLUMN, LINE, LANE, DROP = 30, 100, 40, 22, 8  # around a group's nodes, between columns, lines, values
APART, BELOW, TRUNK = 110, 70, 14  # between groups, and between the values that run down before them
NOTE_WIDTH = 560

Node = dict[str, Any]
Value = tuple[int, int]  # the id of the node that gives it, and which of its outputs


def sources() -> dict[str, tuple[str, dict[str, Any]]]:
    """The folder of each example, by the example's name, and what replaces the names in braces in its layout.

    A folder is one example of its own name, or what stands under `files` in its layout.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in sorted(EXAMPLES.glob("*/layout.yaml")):
        folder = path.parent.name
        for name, words in _layout(folder).get("files", {folder: {}}).items():
            found[name] = (folder, words)
    return found


def _layout(folder: str) -> dict[str, Any]:
    return _parsed((EXAMPLES / folder / "layout.yaml").read_text(encoding="utf-8"))


@cache
def _parsed(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)


def read(name: str) -> dict[str, Any]:
    """The layout of an example."""
    folder, words = sources()[name]

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            for key, word in words.items():
                if value == f"{{{key}}}":
                    return word
                value = value.replace(f"{{{key}}}", str(word))
            return value
        if isinstance(value, list):
            return [filled(one) for one in value]
        return {key: filled(one) for key, one in value.items()} if isinstance(value, dict) else value

    return filled({key: value for key, value in _layout(folder).items() if key != "files"})


@dataclass
class Group:
    """A group with its nodes by line and column; lanes, coordinates and reroutes come later."""

    title: str
    role: str
    lines: list[list[Node | None]]
    stack: int
    row: int | None = None
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    lefts: list[float] = field(default_factory=list)
    entering: dict[Value, int] = field(default_factory=dict)  # lane of each value that comes along the top
    inside: list[dict[Value, int]] = field(default_factory=list)  # lane of each value above each line

    @property
    def columns(self) -> int:
        """The number of columns."""
        return max(map(len, self.lines))

    def widths(self) -> list[float]:
        """The widest node of each column."""
        widths = [0.0] * self.columns
        for line in self.lines:
            for column, node in enumerate(line):
                if node:
                    widths[column] = max(widths[column], node["size"][0])
        return widths

    def top(self, lane: int) -> float:
        """The height of a lane along its top."""
        return self.y + HEAD + LANE * lane


def note_node(number: int, text: str) -> Node:
    """The note, as high as its text needs."""
    lines = sum(max(1, math.ceil(len(line) / 68)) for line in text.splitlines())
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [0, 0],
        "size": [NOTE_WIDTH, 60 + 21 * lines],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def row(line: list[Any], nodes: dict[int, Node]) -> list[Node | None]:
    """The nodes of a line of a layout."""
    placed: list[Node | None] = []
    for place in line:
        if isinstance(place, str):
            first, last = map(int, place.split("-"))
            placed += [nodes[number] for number in sorted(nodes) if first <= number <= last]
        else:
            placed.append(None if place is None else nodes[place])
    return placed


class Arrangement:
    """Groups, positions and reroutes for one graph of the front end, which `write` puts into it."""

    def __init__(self, graph: dict[str, Any], layout: dict[str, Any]) -> None:
        """Find out where each node stands.

        Raises:
            ValueError: a node in no group, or in two.
        """
        self.graph = graph
        self.nodes: dict[int, Node] = {node["id"]: node for node in graph["nodes"]}
        note = note_node(max(self.nodes) + 1, layout["note"].strip())
        self.groups = [Group(layout["title"], "note", [[note]], 0)]
        for group in layout["groups"]:
            stack = self.groups[-1].stack + (not group.get("below"))
            self.groups.append(
                Group(
                    group["title"],
                    group["role"],
                    [row(line, self.nodes) for line in group["lines"]],
                    stack,
                    group.get("row"),
                )
            )
        graph["nodes"].append(note)
        graph["last_node_id"] = max(graph["last_node_id"], note["id"])
        self.places: dict[int, tuple[Group, int, int]] = {}
        for group in self.groups:
            for line, members in enumerate(group.lines):
                for column, node in enumerate(members):
                    if node:
                        if node["id"] in self.places:
                            raise ValueError(f"{layout['title']}: node {node['id']} stands twice in the layout")
                        self.places[node["id"]] = (group, line, column)
        lost = sorted(set(self.nodes) - set(self.places))
        if lost:
            raise ValueError(f"{layout['title']}: nodes {lost} are in no group of the layout")
        self.far: dict[Value, int] = {}  # lane above all groups
        self.trunks: dict[int, dict[Value, int]] = defaultdict(dict)  # by stack: lane of each value before it
        self.reroutes: list[dict[str, Any]] = []
        self.parents: dict[int, int] = {}  # the last reroute of a link

    def ways(self) -> dict[str, list[tuple[int, Value, int]]]:
        """The links that need reroutes, inside a group and between two: a link's id, its value, the node it goes to."""
        links: dict[str, list[tuple[int, Value, int]]] = {"inside": [], "between": []}
        takers: dict[tuple[Value, int], set[tuple[int, int]]] = defaultdict(set)
        for _, origin, slot, target, _, _ in self.graph["links"]:
            goal, line, _ = self.places[target]
            takers[(origin, slot), goal.stack].add((id(goal), line))
        for number, origin, slot, target, _, _ in self.graph["links"]:
            (source, _, start), (goal, _, end) = self.places[origin], self.places[target]
            if source is goal:
                if end - start - 1 > MOST_SKIPPED:
                    links["inside"].append((number, (origin, slot), target))
            elif source.stack != goal.stack:
                skipped = source.columns - 1 - start + end
                several = len(takers[(origin, slot), goal.stack]) > 1
                if goal.stack > source.stack + 1 or skipped > MOST_SKIPPED or several:
                    links["between"].append((number, (origin, slot), target))
        return links

    def assign_lanes(self) -> None:
        """Give each value its lane."""
        ways = self.ways()
        for group in self.groups:
            group.inside = [{} for _ in group.lines]
        for _, value, target in ways["inside"]:
            group, line, _ = self.places[target]
            group.inside[line].setdefault(value, len(group.inside[line]))

        def height(way: tuple[int, Value, int]) -> tuple[int, int, int, int]:
            group, line, column = self.places[way[1][0]]
            return self.groups.index(group), line, column, way[1][1]

        for _, value, target in sorted(ways["between"], key=height):
            group = self.places[target][0]
            group.entering.setdefault(value, len(group.entering))
            self.trunks[group.stack].setdefault(value, len(self.trunks[group.stack]))
            if group.stack > self.places[value[0]][0].stack + 1:
                self.far.setdefault(value, len(self.far))

    def place(self) -> None:
        """Set the positions of nodes and groups."""
        self.place_stacks({})
        tops: dict[int | None, float] = {}
        y = 0.0
        for number in sorted({group.row for group in self.groups if group.row is not None}):
            tops[number] = y
            y += max(group.height for group in self.groups if group.row == number) + BELOW
        self.place_stacks(tops)

    def place_stacks(self, tops: dict[int | None, float]) -> None:
        """Set the positions of nodes and groups, where it is known at what height each row begins."""
        x = 0.0
        for stack in range(self.groups[-1].stack + 1):
            x += TRUNK * len(self.trunks[stack])
            members = [group for group in self.groups if group.stack == stack]
            shared: dict[int, list[float]] = {}
            for group in members:
                before = shared.get(group.columns, [0.0] * group.columns)
                shared[group.columns] = list(map(max, before, group.widths()))
            y = 0.0
            for group in members:
                y = tops.get(group.row, y)
                self.place_group(group, x, y, shared[group.columns])
                y += group.height + BELOW
            widest = max(group.width for group in members)
            for group in members:
                group.width = widest
            x += widest + APART

    def place_group(self, group: Group, x: float, y: float, widths: list[float]) -> None:
        """Set the positions of one group's nodes, and its size."""
        group.x, group.y, group.lefts = x, y, []
        left = x + MARGIN
        for width in widths:
            group.lefts.append(left)
            left += width + COLUMN
        group.width = left - COLUMN + MARGIN - x
        top = group.top(len(group.entering))
        for line, members in enumerate(group.lines):
            top += LANE * len(group.inside[line]) + TITLE
            for column, node in enumerate(members):
                if node:
                    node["pos"] = [round(group.lefts[column]), round(top)]
            top += max(node["size"][1] for node in members if node) + LINE
        group.height = top - LINE + MARGIN - y

    def reroute(self, x: float, y: float, parent: int | None) -> int:
        """A new point; its id."""
        point: dict[str, Any] = {"id": len(self.reroutes) + 1, "pos": [round(x), round(y)], "linkIds": []}
        if parent is not None:
            point["parentId"] = parent
        self.reroutes.append(point)
        return point["id"]

    def lead(self) -> None:
        """Make the reroutes."""
        ways = self.ways()
        inside: dict[tuple[Value, int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, value, target in ways["inside"]:
            group, line, column = self.places[target]
            inside[value, self.groups.index(group), line][column].append(number)
        for (value, index, line), columns in inside.items():
            group = self.groups[index]
            first = next(node for node in group.lines[line] if node)
            height = first["pos"][1] - TITLE - LANE * (group.inside[line][value] + 0.5)
            start = self.nodes[value[0]]
            points = self.reroute(start["pos"][0] + start["size"][0] + 24, height, None)
            self.drop(group, columns, group.inside[line][value], height, points)
        between: dict[tuple[Value, int], dict[int, dict[int, list[int]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        for number, value, target in ways["between"]:
            group, _, column = self.places[target]
            between[value, group.stack][self.groups.index(group)][column].append(number)
        above: dict[Value, int] = {}  # the last point over all groups
        for (value, stack), goals in sorted(between.items(), key=lambda item: item[0][1]):
            source = self.places[value[0]][0]
            left = self.groups[min(goals)].x - 40 - TRUNK * (len(self.trunks[stack]) - 1 - self.trunks[stack][value])
            point = None
            if value in self.far and stack > source.stack + 1:
                height = -LANE * (self.far[value] + 2)
                if value not in above:
                    above[value] = self.reroute(source.x + source.width + 30 + 8 * self.far[value], height, None)
                point = above[value] = self.reroute(left, height, above[value])
            for index in sorted(goals):
                group = self.groups[index]
                height = group.top(group.entering[value])
                if len(goals) > 1:
                    point = self.reroute(left, height, point)
                entrance = self.reroute(group.x + 12, height, point)
                self.drop(group, goals[index], group.entering[value], height, entrance)

    def drop(self, group: Group, columns: dict[int, list[int]], lane: int, height: float, point: int) -> None:
        """Add reroutes along a lane, one before each column with targets, and down before the column, for the links."""
        targets = {link[0]: link[3] for link in self.graph["links"]}
        for column in sorted(columns):
            left = group.lefts[column] - 16 - DROP * lane
            if column:  # before the first column there is one already
                point = self.reroute(left, height, point)
            last = point
            lines = sorted({self.places[targets[number]][1] for number in columns[column]})
            for line in lines:
                links = [number for number in columns[column] if self.places[targets[number]][1] == line]
                if line != lines[0]:
                    top = self.nodes[targets[links[0]]]["pos"][1]
                    last = self.reroute(left, top - TITLE - 6, last)
                for number in links:
                    self.parents[number] = last
                    along: int | None = last
                    while along is not None:
                        self.reroutes[along - 1]["linkIds"].append(number)
                        along = self.reroutes[along - 1].get("parentId")

    def write(self) -> None:
        """Put all of it into the graph, and a view from which the note and what is beside it can be read."""
        self.assign_lanes()
        self.place()
        self.lead()
        self.graph["groups"] = [
            {
                "id": number,
                "title": group.title,
                "font_size": FONT,
                "color": COLOURS[group.role],
                "flags": {},
                "bounding": [round(group.x), round(group.y), round(group.width), round(group.height)],
            }
            for number, group in enumerate(self.groups, 1)
        ]
        extra = self.graph["extra"]
        extra["reroutes"] = self.reroutes
        extra["linkExtensions"] = [{"id": number, "parentId": point} for number, point in sorted(self.parents.items())]
        right = max(group.x + group.width for group in self.groups)
        bottom = max(group.y + group.height for group in self.groups)
        scale = round(max(0.4, min(0.9, 1700 / right, 850 / bottom)), 3)
        extra["ds"] = {"scale": scale, "offset": [round(90 / scale), round(110 / scale)]}


def arrange(graph: dict[str, Any], name: str) -> None:
    """Lay out the front end's form of an example."""
    Arrangement(graph, read(name)).write()
