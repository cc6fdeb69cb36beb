"""How an example's graph is laid out to be read: examples/NAME/layout.yaml onto what the front end has written.

A layout has a title, a note in Markdown in English and Chinese (what it shows, what to change, what comes out), the
node whose picture is the thumbnail, subgraphs (packing.of_layout), and groups from left to right. A group with
`below: true` stands under the one before it; one with `band: true` at the left again, beside the note and under all
that came before; one with `beside: true` at the right of all that. The lines of a group or subgraph are lists of node
ids, a line a row, from left to right; ~ leaves a place free, "1010-1016" are the nodes of those ids in one row. Groups
below each other with the same number of columns have them in the same places. `sizes` has the sizes of nodes that show
pictures.

The page shows a template in three quarters of its window, and text below 0.571 of its size not at all: so no graph is
larger than WIDEST x HIGHEST on top.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).resolve().parent / "examples"
_GROUP_COLOURS = {  # ComfyUI's own group colours, by what a group holds
    "note": "#444",
    "model": "#3f789e",
    "subject": "#8A8",
    "prompts": "#88A",
    "train": "#b58b2a",
    "sample": "#A88",
    "result": "#8AA",
}
WIDEST, HIGHEST = 2480, 1300  # of a graph; the page's canvas is a little smaller than its window
TITLE = 30  # height of a node's title, which is above its position
HEAD, FONT = 40, 24  # height of a group's title, and its font size
MARGIN, COLUMN, LINE = 20, 50, 20  # around a group's nodes, between columns, between lines
APART, BELOW = 30, 30  # between groups
NOTE_WIDTH, LETTER, NOTE_LINE = 440, 5.2, 14  # of the note: its width, of a letter, the height of a line

_Node = dict[str, Any]


def sources() -> dict[str, tuple[str, dict[str, Any]]]:
    """The folder of each example, by the example's name, and what replaces the names in braces in its layout.

    A folder is one example of its own name, or what stands under `files` in its layout.
    """
    folders: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in sorted(EXAMPLES.glob("*/layout.yaml")):
        folder = path.parent.name
        for name, words in _layout(folder).get("files", {folder: {}}).items():
            folders[name] = (folder, words)
    return folders


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
    """A group with its nodes by line and column; coordinates come later."""

    title: str
    role: str
    lines: list[list[_Node | None]]
    stack: int
    band: int = 0
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    lefts: list[float] = field(default_factory=list)

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


def _lines_of(text: str) -> int:
    """How many lines a text takes in a note; Chinese letters are twice as wide."""
    number = 0
    for line in text.splitlines():
        width = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line) * LETTER
        number += int(width // (NOTE_WIDTH - 30)) + 1
    return number


def note_node(number: int, text: str) -> _Node:
    """The note, as high as its text needs."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [0, 0],
        "size": [NOTE_WIDTH, 50 + NOTE_LINE * _lines_of(text)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me / 说明",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def expanded(lines: list[list[Any]], numbers: list[int]) -> list[list[int | None]]:
    """Lines of a layout with the ids that "1010-1016" stands for."""
    rows: list[list[int | None]] = []
    for line in lines:
        rows.append([])
        for place in line:
            if isinstance(place, str):
                first, last = map(int, place.split("-"))
                rows[-1] += [number for number in sorted(numbers) if first <= number <= last]
            else:
                rows[-1].append(place)
    return rows


class Arrangement:
    """Groups and positions for one graph of the front end, which `write` puts into it."""

    def __init__(self, graph: dict[str, Any], layout: dict[str, Any]) -> None:
        """Find out where each node stands.

        Raises:
            ValueError: a node in no group, or in two.
        """
        self.graph = graph
        nodes: dict[int, _Node] = {node["id"]: node for node in graph["nodes"]}
        for number, size in layout.get("sizes", {}).items():
            nodes[number]["size"] = size
        text = f"{layout['note'].strip()}\n\n---\n\n{layout['note_zh'].strip()}"
        note = note_node(max(nodes) + 1, text)
        self.groups = [Group(layout["title"], "note", [[note]], 0)]
        placed: set[int] = set()
        for group in layout["groups"]:
            stack = self.groups[-1].stack + (not group.get("below"))
            band = -1 if group.get("beside") else self.groups[-1].band + bool(group.get("band"))
            lines = expanded(group["lines"], list(nodes))
            for number in (number for line in lines for number in line if number is not None):
                if number in placed:
                    raise ValueError(f"{layout['title']}: node {number} stands twice in the layout")
                placed.add(number)
            members = [[None if number is None else nodes[number] for number in line] for line in lines]
            self.groups.append(Group(group["title"], group["role"], members, stack, band))
        lost = sorted(set(nodes) - placed)
        if lost:
            raise ValueError(f"{layout['title']}: nodes {lost} are in no group of the layout")
        graph["nodes"].append(note)
        graph["last_node_id"] = max(graph["last_node_id"], note["id"])

    def place(self) -> None:
        """Set the positions of nodes and groups."""
        x = top = bottom = 0.0
        band = 0
        for stack in range(self.groups[-1].stack + 1):
            members = [group for group in self.groups if group.stack == stack]
            if members[0].band != band:
                band, x, top = members[0].band, self.groups[0].width + APART, bottom + BELOW
                if band < 0:
                    x, top = max(group.x + group.width for group in self.groups if group.stack < stack) + APART, 0.0
            shared: dict[int, list[float]] = {}
            for group in members:
                before = shared.get(group.columns, [0.0] * group.columns)
                shared[group.columns] = list(map(max, before, group.widths()))
            y = top
            for group in members:
                self.place_group(group, x, y, shared[group.columns])
                y += group.height + BELOW
            widest = max(group.width for group in members)
            for group in members:
                group.width = widest
            if stack:
                bottom = max(bottom, y - BELOW)
            x += widest + APART

    def place_group(self, group: Group, x: float, y: float, widths: list[float]) -> None:
        """Set the positions of one group's nodes, and its size."""
        group.x, group.y, group.lefts = x, y, []
        left = x + MARGIN
        for width in widths:
            group.lefts.append(left)
            left += width + COLUMN
        group.width = left - COLUMN + MARGIN - x
        top = y + HEAD
        for members in group.lines:
            top += TITLE
            for column, node in enumerate(members):
                if node:
                    node["pos"] = [round(group.lefts[column]), round(top)]
            top += max(node["size"][1] for node in members if node) + LINE
        group.height = top - LINE + MARGIN - y

    def write(self) -> None:
        """Put all of it into the graph, and a view in which it can be read."""
        self.place()
        self.graph["groups"] = [
            {
                "id": number,
                "title": group.title,
                "font_size": FONT,
                "color": _GROUP_COLOURS[group.role],
                "flags": {},
                "bounding": [round(group.x), round(group.y), round(group.width), round(group.height)],
            }
            for number, group in enumerate(self.groups, 1)
        ]
        extra = self.graph["extra"]
        for key in ("reroutes", "linkExtensions"):
            extra.pop(key, None)
        right = max(group.x + group.width for group in self.groups)
        bottom = max(group.y + group.height for group in self.groups)
        scale = round(min(0.9, 1700 / right, 850 / bottom), 3)
        extra["ds"] = {"scale": scale, "offset": [round(90 / scale), round(110 / scale)]}


def arrange(graph: dict[str, Any], name: str) -> None:
    """Lay out the front end's form of an example."""
    Arrangement(graph, read(name)).write()
