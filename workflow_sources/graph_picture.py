"""A picture of a graph, of its groups, nodes and links: the thumbnail of an example that cannot be run everywhere."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont

LINK_COLOURS = {  # the front end's, by type
    "MODEL": "#B39DDB",
    "CLIP": "#FFD500",
    "VAE": "#FF6E6E",
    "CONDITIONING": "#FFA931",
    "LATENT": "#FF9CF9",
    "IMAGE": "#64B5F6",
}
BACKGROUND = "#202020"
TITLE, SLOT = 30, 20  # heights in a node


def shown(graph: dict[str, Any]) -> list[Any]:
    """All that `draw` reads of a graph."""
    nodes = [[node[key] for key in ("id", "type", "pos", "size")] for node in graph["nodes"]]
    return [nodes, graph["links"], graph.get("groups", [])]


def draw(graph: dict[str, Any], side: int = 1024) -> Image.Image:
    """A graph of the front end, `side` pixels wide or high."""
    left = min(group["bounding"][0] for group in graph["groups"]) - 40
    top = min(group["bounding"][1] for group in graph["groups"]) - 40
    right = max(group["bounding"][0] + group["bounding"][2] for group in graph["groups"]) + 40
    bottom = max(group["bounding"][1] + group["bounding"][3] for group in graph["groups"]) + 40
    scale = side / max(right - left, bottom - top)
    picture = Image.new("RGB", (round((right - left) * scale), round((bottom - top) * scale)), BACKGROUND)
    pen = ImageDraw.Draw(picture, "RGBA")

    def at(x: float, y: float) -> tuple[float, float]:
        return (x - left) * scale, (y - top) * scale

    for group in graph["groups"]:
        x, y, width, height = group["bounding"]
        red, green, blue = (
            (17 * int(letter, 16) for letter in group["color"][1:])
            if len(group["color"]) == 4
            else (int(group["color"][place : place + 2], 16) for place in (1, 3, 5))
        )
        pen.rectangle((*at(x, y), *at(x + width, y + height)), (red, green, blue, 90), (red, green, blue, 255))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for _, origin, out, target, into, kind in graph["links"]:
        source, goal = nodes[origin], nodes[target]
        ends = (
            (source["pos"][0] + source["size"][0], source["pos"][1] + SLOT * (out + 0.7)),
            (goal["pos"][0], goal["pos"][1] + SLOT * (into + 0.7)),
        )
        pen.line([at(*end) for end in ends], LINK_COLOURS.get(kind, "#9FB09F"), 1)
    for node in graph["nodes"]:
        x, y = node["pos"]
        width, height = node["size"]
        note = node["type"] == "MarkdownNote"
        pen.rectangle((*at(x, y - TITLE), *at(x + width, y + height)), "#653" if note else "#353535", "#666")
        pen.rectangle((*at(x, y - TITLE), *at(x + width, y)), "#432" if note else "#4a4a4a")
    for group in graph["groups"]:
        x, y, width, _ = group["bounding"]
        size = max(9.0, 30 * scale)
        font = ImageFont.load_default(size)
        text = group["title"]
        while len(text) > 1 and font.getlength(text) > width * scale - 4:
            text = text[:-1]
        pen.text(at(x + 14, y + 4), text, "white", font)
    return picture
