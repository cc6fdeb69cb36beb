"""The files that are made from the sources: what each example and plan has to be, and whether its graph still fits."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from . import bases, blueprints, scorers
from .blueprints import Blueprint
from .layout import EXAMPLES, arrange, expanded, read, sources
from .packing import flattened, of_layout, own_id, pack, unpacked
from .plans import plans
from .prompt import ROOT, PromptBuilder
from .tables import PLANS
from .text import api_text, graph_text

FILES = {**bases.BASE_FILES, **scorers.SCORER_FILES}  # by name: the folder below models, and the address
TEMPLATES = ROOT / "example_workflows"  # what ComfyUI's template browser shows
API = TEMPLATES / "api"
_NOTE = "MarkdownNote"


def names() -> list[str]:
    """All examples."""
    return sorted(sources())


def prompt_of(name: str) -> PromptBuilder:
    """An example in API form with its own ids: what its source.py makes, or its source.json.

    The page sends "20:40" for node 40 in node 20.
    """
    folder, _ = sources()[name]
    written = EXAMPLES / folder / "source.json"
    if written.is_file():
        return PromptBuilder(json.loads(written.read_text(encoding="utf-8")))
    computed: PromptBuilder = importlib.import_module(f".examples.{folder}.source", __package__).prompt(name)
    return computed


def computed(name: str) -> dict[str, Any]:
    """What an example computes: its API form without titles."""
    return {number: {**node, "_meta": None} for number, node in prompt_of(name).items()}


def drawn(name: str) -> dict[str, Any]:
    """What a picture of an example's graph shows of the file: subgraphs are closed, and properties are not seen."""
    graph = graph_of(name)
    unseen = {"order", "properties"}
    nodes = [{key: node[key] for key in node.keys() - unseen} for node in graph["nodes"]]
    return {"nodes": nodes, "links": graph["links"], "groups": graph.get("groups", [])}


def api_files() -> dict[Path, str]:
    """The API form of all examples."""
    return {API / f"{name}.json": api_text(prompt_of(name)) for name in names()}


def plan_files() -> dict[Path, str]:
    """The plans that are not written by hand."""
    return {PLANS / f"{name}.yaml": text for name, text in plans().items()}


def graph_of(name: str) -> dict[str, Any]:
    """The front end's form of an example as it is on disk; without nodes where there is none yet."""
    path = TEMPLATES / f"{name}.json"
    graph: dict[str, Any] = {"nodes": [], "links": []}
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else graph


def arranged(graph: dict[str, Any], name: str) -> str:
    """The text of a graph that the front end has written, laid out as the example's layout.yaml says."""
    graph = flattened({**graph, "nodes": [node for node in graph["nodes"] if node["type"] != _NOTE]})
    for packing in prompt_of(name).packings:
        pack(graph, packing)
    for subgraph in read(name).get("subgraphs", []):
        lines = expanded(subgraph["lines"], [node["id"] for node in graph["nodes"]])
        pack(graph, of_layout(graph, {**subgraph, "lines": lines}, name))
    name_sources(graph)
    arrange(graph, name)
    return graph_text(graph)


def name_sources(graph: dict[str, Any]) -> None:
    """Write at each node that names a model file where that comes from, for the page to offer its download."""
    inside = [one["nodes"] for one in graph.get("definitions", {}).get("subgraphs", [])]
    for node in (node for nodes in [graph["nodes"], *inside] for node in nodes):
        values = [value for value in node["widgets_values"] if isinstance(value, str) and value in FILES]
        node["properties"].pop("models", None)
        if values:
            node["properties"]["models"] = [
                {"name": value, "url": FILES[value][1], "directory": FILES[value][0]} for value in values
            ]


def graph_files() -> dict[Path, str]:
    """The front end's form of all examples that need no other graph, in their layouts."""
    return {TEMPLATES / f"{name}.json": arranged(graph_of(name), name) for name in names() if not outdated(name)}


def blueprint_files() -> dict[Path, str]:
    """All blueprints that need no other graph."""
    return {
        one.path: blueprints.repacked(blueprints.graph_of(one), one)
        for one in blueprints.blueprints()
        if not outdated_blueprint(one)
    }


def outdated_blueprint(blueprint: Blueprint) -> list[str]:
    """The reason why the front end has to write a blueprint's nodes again."""
    return differences(blueprints.graph_of(blueprint), blueprints.sent(blueprint))


def outdated(name: str) -> list[str]:
    """The reason why the front end has to write an example's graph again: how it differs from the API form."""
    return differences(graph_of(name), prompt_of(name))


@cache
def sockets() -> dict[str, frozenset[str]]:
    """The sockets that each node of the pack always has, by interface.json: no widgets, no options', none that grow."""
    recorded = json.loads((ROOT / "interface.json").read_text(encoding="utf-8"))["nodes"]
    return {
        name: frozenset(
            key
            for key, kind in node["inputs"].items()
            if "[" not in key and "widget" not in kind and kind[0].isupper() and "COMFY_" not in kind
        )
        for name, node in recorded.items()
    }


def differences(graph: Mapping[str, Any], prompt: Mapping[str, Any]) -> list[str]:
    """The differences between the two forms of a workflow: nodes, titles, links and values.

    So is a socket that a node has got since the front end has written the graph: the page would add it.
    """
    graph = unpacked(graph)
    nodes = {own_id(node["id"]): node for node in graph["nodes"] if node["type"] != _NOTE}
    prompt = {own_id(number): node for number, node in prompt.items()}
    lines = [f"node {number} is in one form only" for number in sorted(nodes.keys() ^ prompt.keys())]
    links = {number: [own_id(origin), slot] for number, origin, slot, *_ in graph["links"]}
    for number in nodes.keys() & prompt.keys():
        node, inputs = nodes[number], prompt[number]["inputs"]
        if node["type"] != prompt[number]["class_type"]:
            lines.append(f"node {number} is {node['type']} and {prompt[number]['class_type']}")
        if node.get("title") != prompt[number]["_meta"]["title"]:
            lines.append(f"node {number} has two titles")
        joined = {item["name"]: links[item["link"]] for item in node["inputs"] if item["link"] is not None}
        if joined != {key: [own_id(value[0]), value[1]] for key, value in inputs.items() if isinstance(value, list)}:
            lines.append(f"node {number} has other links")
        lacking = sockets().get(node["type"], frozenset()) - {item["name"] for item in node["inputs"]}
        lines += [f"node {number} lacks the socket {name}" for name in sorted(lacking)]
        if node["mode"]:
            lines.append(f"node {number} is muted or bypassed")
        values = [value for value in inputs.values() if not isinstance(value, list)]
        lines += [f"node {number} lacks {value!r}" for value in values if value not in node["widgets_values"]]
    return lines
