"""Saved workflows go on working: the nodes are what interface.json says, or what is gone has something in its place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..scripts import load_script

ROOT = Path(__file__).resolve().parent.parent.parent


make_interface = load_script("make_interface")
RECORD = json.loads(make_interface.TARGET.read_text())


def nodes_of(comfyui: Any) -> dict[str, Any]:
    """The nodes as they are."""
    return {name: make_interface.describe(node.GET_NODE_INFO_V1()) for name, node in comfyui.pack_nodes.items()}


def replaced_by(comfyui: Any) -> dict[str, str]:
    """New id by old one."""
    return {item.old_node_id: item.new_node_id for item in comfyui.module("nodes.replaced").REPLACED}


def test_nothing_is_broken(comfyui: Any) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert make_interface.problems(RECORD, nodes_of(comfyui), replaced_by(comfyui), changelog) == []


def renamed(inputs: dict[str, str], old: str, new: str) -> dict[str, str]:
    """Inputs in their order, one under another name."""
    return {new if name == old else name: what for name, what in inputs.items()}


def first(inputs: dict[str, str], name: str, what: str) -> dict[str, str]:
    """Inputs with one before all others."""
    return {name: what, **inputs}


# What is done to Train Adapter or Apply Adapter, and what has to be said of it.
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a renamed input": (
        lambda node: node.update(inputs=renamed(node["inputs"], "model", "base_model")),
        "input model is gone",
    ),
    "a renamed input of an option": (
        lambda node: node.update(inputs=renamed(node["inputs"], "method[deft].alpha", "method[deft].scale")),
        "input method[deft].alpha is gone",
    ),
    "a removed option": (lambda node: node["inputs"].pop("method[dreambooth]"), "input method[dreambooth] is gone"),
    "another type": (lambda node: node["inputs"].update(steps="FLOAT, widget"), "input steps was INT and is FLOAT"),
    "a widget that becomes a socket": (lambda node: node["inputs"].update(steps="INT"), "input steps was a widget"),
    "an optional input that is asked for": (lambda node: node["inputs"].update(clip="CLIP"), "clip was optional"),
    "a new input that is asked for": (lambda node: node["inputs"].update(new="INT, widget"), "new and not optional"),
    "a new widget before others": (
        lambda node: node.update(inputs=first(node["inputs"], "new", "INT, optional, widget")),
        "belong at the end",
    ),
    "a new widget of an option before others": (
        lambda node: node.update(
            inputs=renamed(node["inputs"], "method[para].rank_cap", "method[para].new")
            | {"method[para].rank_cap": "FLOAT, widget"}
        ),
        "the widgets with method[para] were",
    ),
    "a second widget that comes": (lambda node: node["inputs"].update(steps="INT, widget, control"), "steps control"),
    "exchanged outputs": (lambda node: node["outputs"].reverse(), "output 0 was adapter: LORA_MODEL"),
    "an output before others": (lambda node: node["outputs"].insert(0, "new: INT"), "output 0 was"),
    "a removed output": (lambda node: node["outputs"].pop(), "output 4 was preview_sheet: IMAGE and is gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_breaks_is_found(change: str) -> None:
    """One change is an entry under the node's own id, for ComfyUI replaces no node that is there."""
    edit, message = CHANGES[change]
    nodes = copy.deepcopy(RECORD["nodes"])
    edit(nodes["DEFTTrainAdapter"])
    problems = make_interface.problems(RECORD, nodes, {}, "")
    assert any(message in text for text in problems), problems
    assert all(text.startswith("DEFTTrainAdapter") for text in problems)
    assert (
        len(make_interface.problems(RECORD, nodes, {"DEFTTrainAdapter": "DEFTApplyAdapter"}, "DEFTTrainAdapter"))
        == len(problems) + 1
    )


def test_what_breaks_nothing_passes() -> None:
    nodes = copy.deepcopy(RECORD["nodes"])
    node = nodes["DEFTTrainAdapter"]
    node["inputs"] |= {"new": "INT, optional, widget", "method[new]": "option", "method[new].rank": "INT, widget"}
    node["inputs"]["seed"] = "INT, widget"  # the front end knows seeds by their names
    node["outputs"].append("new: INT")
    nodes["DEFTNew"] = node
    assert make_interface.problems(RECORD, nodes, {}, "") == []
    assert make_interface.record_of(nodes, {}) != RECORD


def test_a_node_that_is_gone_needs_a_replacement_and_the_changelog() -> None:
    nodes = copy.deepcopy(RECORD["nodes"])
    nodes["DEFTTrainAdapterTwo"] = nodes.pop("DEFTTrainAdapter")
    replacements = {"DEFTTrainAdapter": "DEFTTrainAdapterTwo"}
    for replaced, changelog, message in (
        ({}, "", "DEFTTrainAdapter is gone"),
        ({"DEFTTrainAdapter": "DEFTNothing"}, "", "which is no node"),
        (replacements, "- DEFTTrainAdapterTwo is new.", "CHANGELOG.md does not name it"),
    ):
        (problem,) = make_interface.problems(RECORD, nodes, replaced, changelog)
        assert message in problem
    changelog = "- DEFTTrainAdapter is replaced by DEFTTrainAdapterTwo."
    assert make_interface.problems(RECORD, nodes, replacements, changelog) == []
    # And for good: a later release has to keep the replacement.
    later = make_interface.record_of(nodes, replacements)
    assert make_interface.problems(later, nodes, replacements, changelog) == []
    (problem,) = make_interface.problems(later, nodes, {}, changelog)
    assert "DEFTTrainAdapter is gone" in problem


def test_comfyui_replaces_what_is_listed(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow with the id of an earlier release runs, by ComfyUI's own replacement."""
    from comfy_api.v0_0_2 import io

    replaced, manager = comfyui.module("nodes.replaced"), comfyui.server.node_replace_manager
    monkeypatch.setattr(
        replaced,
        "REPLACED",
        [
            io.NodeReplace(
                "DEFTPrompts",
                "DEFTOldPrompts",
                ["lines"],
                [{"new_id": "prompts", "old_id": "lines"}, {"new_id": "token", "set_value": "sks"}],
                [{"old_idx": 1, "new_idx": 0}],
            )
        ],
    )
    monkeypatch.setattr(manager, "_replacements", dict(manager._replacements))
    comfyui.loop.run_until_complete(comfyui.module("nodes").DEFTExtension().on_load())
    prompt = {
        "1": {"class_type": "DEFTOldPrompts", "inputs": {"lines": "a sks cat"}, "_meta": {"title": "old"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}, "_meta": {"title": "shown"}},
    }
    manager.apply_replacements(prompt)
    assert prompt["1"]["class_type"] == "DEFTPrompts"
    assert comfyui.run(prompt).text("2") == "a sks cat"
