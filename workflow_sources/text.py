"""JSON of workflows as text: one line a node, so that a difference of two versions can be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LISTS = ("nodes", "links", "groups")  # of the front end's form: one line for each member


def line(value: Any) -> str:
    """A value on one line."""
    return json.dumps(value, ensure_ascii=False)


def _object(members: Mapping[str, str], indent: str = "") -> str:
    """An object with one line for each member; the values are JSON already."""
    rows = ",\n".join(f"{indent} {line(name)}: {value}" for name, value in members.items())
    return f"{{\n{rows}\n{indent}}}"


def api_text(prompt: Mapping[str, Any]) -> str:
    """A workflow in API form: one line a node."""
    return _object({number: line(node) for number, node in prompt.items()}) + "\n"


def _definitions(value: Mapping[str, Any]) -> str:
    """The subgraphs: a line a node and a link, as for what is on top, deeper."""
    graphs = []
    for graph in value["subgraphs"]:
        parts = {
            name: "[\n" + ",\n".join(f"      {line(item)}" for item in member) + "\n     ]"
            if name in LISTS and member
            else line(member)
            for name, member in graph.items()
        }
        graphs.append("    " + _object(parts, "    "))
    return '{"subgraphs": [\n' + ",\n".join(graphs) + "\n ]}"


def graph_text(graph: Mapping[str, Any]) -> str:
    """A workflow in the front end's form: a line a node, a link and a group."""
    parts = {}
    for name, value in graph.items():
        if name in LISTS and value:
            parts[name] = "[\n" + ",\n".join(f"  {line(item)}" for item in value) + "\n ]"
        elif name == "definitions":
            parts[name] = _definitions(value)
        elif name == "extra":
            parts[name] = _object({key: line(inner) for key, inner in value.items()}, " ")
        else:
            parts[name] = line(value)
    return _object(parts) + "\n"
