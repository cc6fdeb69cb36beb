"""The subgraph blueprints as files, and nodes put into one on top and back."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from deft_pack.workflow_sources import files
from deft_pack.workflow_sources.blueprints import SUBGRAPHS, Blueprint, blueprints, graph_of
from deft_pack.workflow_sources.packing import (
    AFTER_A_RUN,
    INPUT,
    OUTPUT,
    Packing,
    flattened,
    named,
    of_layout,
    pack,
    unpacked,
    widget_value,
)

ALL = pytest.mark.parametrize("blueprint", blueprints(), ids=lambda one: one.name)
INTERFACE = json.loads((Path(__file__).resolve().parent.parent.parent / "interface.json").read_text(encoding="utf-8"))


def definition(blueprint: Blueprint) -> dict[str, Any]:
    (inner,) = graph_of(blueprint)["definitions"]["subgraphs"]
    return inner


def test_each_file_is_one_of_them() -> None:
    assert sorted(SUBGRAPHS.glob("*.json")) == sorted(one.path for one in blueprints())


@ALL
def test_file_is_what_the_source_says(blueprint: Blueprint) -> None:
    assert files.outdated_blueprint(blueprint) == []
    assert files.blueprint_files()[blueprint.path] == blueprint.path.read_text(encoding="utf-8")


@ALL
def test_one_node_on_top_named_as_the_file(blueprint: Blueprint) -> None:
    """The page refuses another number of nodes, and shows the file's name as the title."""
    graph, inner = graph_of(blueprint), definition(blueprint)
    (top,) = graph["nodes"]
    assert graph["links"] == []
    assert top["type"] == inner["id"]
    assert top["title"] == inner["name"] == blueprint.path.stem
    assert graph["extra"]["BlueprintDescription"] == inner["description"]
    assert inner["category"].startswith("DEFT/")
    assert "proxyWidgets" not in blueprint.path.read_text(encoding="utf-8")
    ids = [one["id"] for one in (*inner["inputs"], *inner["outputs"])]
    names = [one["name"] for one in inner["inputs"]]
    assert len(set(ids)) == len(ids)
    assert len(set(names)) == len(names)
    assert [item["name"] for item in top["inputs"]] == names
    assert [item["name"] for item in top["outputs"]] == [one["name"] for one in inner["outputs"]]


@ALL
def test_values_on_top_are_those_inside(blueprint: Blueprint) -> None:
    """Front end 1.45 runs the values inside, later ones those on top."""
    (top,), inner = graph_of(blueprint)["nodes"], definition(blueprint)
    nodes = {node["id"]: node for node in inner["nodes"]}
    promoted = [item["name"] for item in top["inputs"] if "widget" in item]
    assert promoted == list(blueprint.packing.promoted)
    assert top["widgets_values"] == [widget_value(nodes[n], w) for n, w in blueprint.packing.promoted.values()]
    kinds = {item["type"] for item in top["inputs"] if "widget" in item}
    assert kinds <= {"STRING", "INT", "FLOAT", "COMBO", "BOOLEAN"}  # a DynamicCombo's widgets are not made anew on top


@ALL
def test_every_link_is_known_at_both_ends(blueprint: Blueprint) -> None:
    inner = definition(blueprint)
    nodes = {node["id"]: node for node in inner["nodes"]}
    for link in inner["links"]:
        if link["origin_id"] == INPUT:
            start = inner["inputs"][link["origin_slot"]]
            assert link["id"] in start["linkIds"]
        else:
            start = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in start["links"]
        if link["target_id"] == OUTPUT:
            end = inner["outputs"][link["target_slot"]]
            assert link["id"] in end["linkIds"]
        else:
            end = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert link["id"] == end["link"]
        assert {start["type"], end["type"], link["type"]} in ({link["type"]}, {link["type"], "*"})
    counted = [node_input["link"] for node in nodes.values() for node_input in node["inputs"]]
    counted = [one for one in counted if one] + [one for item in inner["outputs"] for one in item["linkIds"]]
    assert sorted(counted) == [link["id"] for link in inner["links"]]


@ALL
def test_nodes_have_their_interface(blueprint: Blueprint) -> None:
    """The inputs of the pack's nodes that links go to are of the kinds that these have, and no required one is open."""
    nodes = INTERFACE.get("nodes", INTERFACE)
    for node in definition(blueprint)["nodes"]:
        if node["type"] not in nodes:
            continue
        own = nodes[node["type"]]["inputs"]
        given = {item["name"]: item for item in node["inputs"]}
        for name, words in own.items():
            if "[" in name or words.startswith(("COMFY_", "option")):
                continue
            if name not in given and "widget" in words and "optional" in words:
                continue  # a widget that came later: the page adds it
            assert given[name]["type"] == words.split(", ")[0], (node["type"], name)
            if "widget" not in words and "optional" not in words:
                assert given[name]["link"], (node["type"], name)


@ALL
def test_ids_and_places(blueprint: Blueprint) -> None:
    """No machine's paths, and inside no node on another."""
    boxes = [(*node["pos"], *node["size"]) for node in definition(blueprint)["nodes"]]
    for place, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:place]:
            apart = x >= other_x + other_width or other_x >= x + width
            assert apart or y - 30 >= other_y + other_height or other_y - 30 >= y + height
    assert set(files.api_files()) & {blueprint.path} == set()


FLAT: dict[str, Any] = {
    "nodes": [
        {"id": 1, "type": "A", "order": 0, "inputs": [], "outputs": [{"name": "a", "type": "X", "links": [1, 2, 4]}]},
        {
            "id": 2,
            "type": "B",
            "order": 1,
            "size": [100, 50],
            "inputs": [
                {"name": "one", "type": "X", "link": 1},
                {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": None},
                {"name": "count", "type": "INT", "widget": {"name": "count"}, "link": None},
            ],
            "outputs": [{"name": "b", "type": "Y", "links": [3]}],
            "widgets_values": [7, "fixed", 5],
        },
        {
            "id": 3,
            "type": "C",
            "order": 2,
            "size": [100, 50],
            "inputs": [{"name": "one", "type": "X", "link": 2}, {"name": "two", "type": "Y", "link": 3}],
            "outputs": [{"name": "c", "type": "Z", "links": [5]}],
            "widgets_values": [],
        },
        {
            "id": 4,
            "type": "D",
            "order": 3,
            "inputs": [{"name": "x", "type": "X", "link": 4}, {"name": "z", "type": "Z", "link": 5}],
            "outputs": [],
        },
    ],
    "links": [
        [1, 1, 0, 2, 0, "X"],
        [2, 1, 0, 3, 0, "X"],
        [3, 2, 0, 3, 1, "Y"],
        [4, 1, 0, 4, 0, "X"],
        [5, 3, 0, 4, 1, "Z"],
    ],
}
OWN = Packing(
    node=20,
    title="Two in one",
    nodes=(2, 3),
    inputs={"x": [(2, "one"), (3, "one")]},
    promoted={"count": (2, "count")},
    outputs={"z": (3, 0)},
)


def test_packed_and_unpacked() -> None:
    graph = copy.deepcopy(FLAT)
    pack(graph, OWN)
    assert [node["id"] for node in graph["nodes"]] == [1, 4, 20]
    assert graph["links"] == [[1, 1, 0, 20, 0, "X"], [4, 1, 0, 4, 0, "X"], [5, 20, 0, 4, 1, "Z"]]
    top = graph["nodes"][-1]
    assert top["widgets_values"] == [5]
    assert graph["nodes"][0]["outputs"][0]["links"] == [1, 4]  # one link on top for the two inside
    assert [item["link"] for item in top["inputs"]] == [1, None]
    assert top["outputs"][0]["links"] == [5]
    again = unpacked(graph)
    ways = {(str(a), b, str(c), d, kind) for _, a, b, c, d, kind in again["links"]}
    assert ways == {
        ("1", 0, "20:2", 0, "X"),
        ("1", 0, "20:3", 0, "X"),
        ("20:2", 0, "20:3", 1, "Y"),
        ("1", 0, "4", 0, "X"),
        ("20:3", 0, "4", 1, "Z"),
    }
    assert {str(node["id"]) for node in again["nodes"]} == {"1", "4", "20:2", "20:3"}


LAYOUT: dict[str, Any] = {
    "node": 20,
    "title": "Two in one",
    "lines": [[2, None, 3]],
    "on_top": {"count": [2, "count"]},
    "names": {"3.c": "z"},
}


def test_a_layout_names_what_links_come_to_and_go_from() -> None:
    packing = of_layout(FLAT, LAYOUT, "example")
    assert packing.nodes == [2, 3]
    assert packing.inputs == {"one": [(2, "one"), (3, "one")]}  # one link for both
    assert packing.promoted == {"count": (2, "count")}
    assert packing.outputs == {"z": (3, 0)}
    alone = of_layout(FLAT, {"node": 20, "title": "One", "lines": [[4]], "names": {"4.x": "z"}}, "example")
    assert alone.inputs == {"z": [(4, "x")], "z 2": [(4, "z")]}


def test_a_widget_that_a_link_stands_for_is_one_on_top() -> None:
    graph = copy.deepcopy(FLAT)
    graph["nodes"][2]["inputs"][1]["widget"] = {"name": "two"}
    graph["nodes"][2]["widgets_values"] = ["inside"]
    pack(graph, of_layout(graph, {"node": 20, "title": "One", "lines": [[3]]}, "example"))
    top = graph["nodes"][-1]
    assert [(item["name"], "widget" in item, item["link"]) for item in top["inputs"]] == [
        ("one", False, 2),
        ("two", True, 3),
    ]
    assert top["widgets_values"] == ["inside"]


def test_flattened_is_what_was_packed() -> None:
    graph = copy.deepcopy(FLAT) | {"extra": {}}
    pack(graph, of_layout(graph, LAYOUT, "example"))
    (inner,) = graph["definitions"]["subgraphs"]
    assert [node["pos"] for node in inner["nodes"]] == [[0, 30], [260, 30]]
    again = flattened(graph)
    assert [node["id"] for node in again["nodes"]] == [1, 2, 3, 4]
    assert sorted(link[1:] for link in again["links"]) == sorted(link[1:] for link in FLAT["links"])
    for number, origin, slot, target, place, _ in again["links"]:
        assert number in again["nodes"][origin - 1]["outputs"][slot]["links"]
        assert again["nodes"][target - 1]["inputs"][place]["link"] == number
    assert "definitions" not in again


def test_ids_of_the_api_form() -> None:
    prompt = {"1": {"inputs": {}}, "2": {"inputs": {"one": ["1", 0], "seed": 7}}, "4": {"inputs": {"z": ["2", 1]}}}
    assert named(prompt, [dataclasses.replace(OWN, nodes=(2,))]) == {
        "1": {"inputs": {}},
        "20:2": {"inputs": {"one": ["1", 0], "seed": 7}},
        "4": {"inputs": {"z": ["20:2", 1]}},
    }


def test_what_the_packing_does_not_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no input for one of node 3"):
        pack(copy.deepcopy(FLAT), dataclasses.replace(OWN, inputs={"x": [(2, "one")]}))
    with pytest.raises(ValueError, match="no output for 0 of node 3"):
        pack(copy.deepcopy(FLAT), dataclasses.replace(OWN, outputs={}))
    with pytest.raises(ValueError, match="node 2 has no widget size"):
        widget_value(FLAT["nodes"][1], "size")


@pytest.mark.parametrize("after", AFTER_A_RUN)
def test_value_behind_a_seed(after: str) -> None:
    node = copy.deepcopy(FLAT["nodes"][1])
    node["widgets_values"] = [7, after, 5]
    assert (widget_value(node, "seed"), widget_value(node, "count")) == (7, 5)
    node["widgets_values"] = [7, 5]
    assert widget_value(node, "count") == 5
