"""The examples on a real server: the template browser's list and thumbnails, and the front end that opens and saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = ROOT / "example_workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
LINK = ("origin_id", "origin_slot", "target_id", "target_slot")
SAVED = ("compare_methods", "strength_ladder", "deft_table2")  # a usual one, one with many lines, a large one


def test_template_browser_lists_all_with_thumbnails(server: Any) -> None:
    assert sorted(server.get("/api/workflow_templates")[server.pack_name]) == NAMES
    for name in NAMES:
        served = server.get_bytes(f"/api/workflow_templates/{server.pack_name}/{quote(name)}.jpg")
        assert served == (WORKFLOWS / f"{name}.jpg").read_bytes()
        assert server.get(f"/api/workflow_templates/{server.pack_name}/{quote(name)}.json") == json.loads(
            (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")
        )


def test_no_example_uses_a_node_that_is_going_away(server: Any) -> None:
    info = server.get("/object_info")
    used = {
        node["class_type"]
        for name in NAMES
        for node in json.loads((WORKFLOWS / "api" / f"{name}.json").read_text()).values()
    }
    assert used <= set(info)
    assert [kind for kind in sorted(used) if info[kind].get("deprecated")] == []


@pytest.mark.timeout(300)
def test_front_end_keeps_groups_and_subgraphs(drive_browser: Any) -> None:
    """What is opened and saved again has the places, groups and subgraphs of the file."""
    files = [WORKFLOWS / f"{name}.json" for name in SAVED]
    for path, saved in zip(files, drive_browser("save", *files), strict=True):
        graph = json.loads(path.read_text(encoding="utf-8"))
        assert subgraphs(graph)
        assert subgraphs(saved) == subgraphs(graph)
        assert {group["title"]: group["bounding"] for group in saved["groups"]} == {
            group["title"]: group["bounding"] for group in graph["groups"]
        }
        places, expected = ({node["id"]: node["pos"] for node in each["nodes"]} for each in (saved, graph))
        assert places == expected


def subgraphs(graph: dict[str, Any]) -> dict[str, Any]:
    """The links and what is in the nodes, by title; the page does not keep a link's number."""
    return {
        one["name"]: (
            {node["id"]: (node["type"], node["pos"], node["widgets_values"]) for node in one["nodes"]},
            sorted(tuple(link[key] for key in LINK) for link in one["links"]),
        )
        for one in graph["definitions"]["subgraphs"]
    }
