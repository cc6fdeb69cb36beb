"""A saved workflow in ComfyUI's API form, whichever form it was saved in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from .schema import Info, inputs_of, is_link, links_of

Prompt = dict[str, dict[str, Any]]  # node id -> {"class_type", "inputs", "_meta"}
# Node types of the front end that the server never sees.
VIRTUAL = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute", "GetNode", "SetNode"}


def read_workflow(path: Path, info: Info) -> Prompt:
    """The workflow of a file, in API form.

    Raises:
        ValueError: the file is missing or no workflow, it has nodes that the server lacks, a connection leads nowhere,
            or its UI form cannot be converted. One sentence that names the file.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"The workflow {path} does not exist: check `workflow` in the plan.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"The workflow {path} cannot be read ({error}): save it again from ComfyUI.") from error
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        prompt = _converted(data, path, info)
    else:
        if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
            data = data["prompt"]
        if (
            not isinstance(data, dict)
            or not data
            or not all(
                isinstance(node, dict)
                and isinstance(node.get("class_type"), str)
                and isinstance(node.get("inputs"), dict)
                for node in data.values()
            )
        ):
            raise ValueError(f"{path} is not a ComfyUI workflow: save it in ComfyUI with Save or Export (API).")
        prompt = copy.deepcopy(data)
        _check_types((node["class_type"] for node in prompt.values()), path, info)
    for node_id, node in prompt.items():
        for name, source, _ in links_of(node["inputs"]):
            if source not in prompt:
                raise ValueError(
                    f"{path}: {title_of(prompt, node_id, info)} ({node_id}) takes `{name}` from the node "
                    f"{source}, which is not in the workflow: repair it in ComfyUI and save it again."
                )
    order(prompt)
    return prompt


def _check_types(types: Iterable[str], path: Path, info: Info) -> None:
    missing = sorted({kind for kind in types if kind not in info})
    if missing:
        raise ValueError(
            f"{path} needs nodes that this ComfyUI does not have: {', '.join(missing)}. Install their "
            "packs (ComfyUI Manager: Install Missing Custom Nodes), and look into ComfyUI's log whether "
            "one of them failed to load."
        )


def _converted(data: dict[str, Any], path: Path, info: Info) -> Prompt:
    """The API form of a workflow in UI form, by comfy-cli's converter."""
    subgraphs = (data.get("definitions") or {}).get("subgraphs") or []
    subgraph_ids = {str(graph.get("id")) for graph in subgraphs}
    every = [node for graph in ({"nodes": data["nodes"]}, *subgraphs) for node in graph.get("nodes", ())]
    _check_types(
        (
            kind
            for node in every
            if isinstance(node, dict)
            and node.get("mode", 0) not in (2, 4)
            and (kind := str(node.get("type"))) not in subgraph_ids | VIRTUAL
        ),
        path,
        info,
    )
    try:
        from comfy_cli.workflow_to_api import WorkflowConversionError, convert_ui_to_api
    except ImportError as error:
        raise ValueError(
            f"{path} is saved in the front end's form, and converting it needs the package comfy-cli: "
            "install it with `pip install comfy-cli`, or save the workflow with File > Export "
            "(API)."
        ) from error
    try:
        prompt: Prompt = convert_ui_to_api(data, dict(info))
    except WorkflowConversionError as error:
        raise ValueError(
            f"{path} cannot be converted to the API form ({error}): open it in ComfyUI and save it with "
            "File > Export (API)."
        ) from error
    if not prompt:
        raise ValueError(f"{path} has no node that runs: all of them are muted, bypassed or notes.")
    names = {str(node.get("id")): node.get("title") for node in data["nodes"] if isinstance(node, dict)}
    for node_id, node in prompt.items():
        if names.get(node_id):
            node.setdefault("_meta", {})["title"] = names[node_id]
    return prompt


def title_of(prompt: Prompt, node_id: str, info: Info) -> str:
    """A node's title: the one in the workflow, else the node's display name, else its type."""
    node = prompt[node_id]
    node_info = info.get(node["class_type"], {})
    return (node.get("_meta") or {}).get("title") or node_info.get("display_name") or node["class_type"]


def order(prompt: Prompt) -> list[str]:
    """The node ids, every node after those that it needs. Raises ValueError for a workflow that runs in a circle."""
    needs = {node_id: [source for _, source, _ in links_of(node["inputs"])] for node_id, node in prompt.items()}
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ValueError(
            f"the workflow's connections run in a circle through the node {error.args[1][0]}: repair it in ComfyUI."
        ) from None


def needed_by(prompt: Prompt, node_ids: Iterable[str]) -> set[str]:
    """The nodes that these nodes need, with themselves."""
    needed: set[str] = set()
    waiting = list(node_ids)
    while waiting:
        node_id = waiting.pop()
        if node_id not in needed:
            needed.add(node_id)
            waiting += [source for _, source, _ in links_of(prompt[node_id]["inputs"])]
    return needed


def mute(prompt: Prompt, nodes: Sequence[str], info: Info) -> list[str]:
    """Take nodes out, and those that cannot run without them; returns which, a sentence each.

    Optional inputs that came from them are no longer there.
    """
    remarks = []
    waiting = list(nodes)
    while waiting:
        node_id = waiting.pop()
        title = title_of(prompt, node_id, info)
        del prompt[node_id]
        for other, node in prompt.items():
            gone = [name for name, source, _ in links_of(node["inputs"]) if source == node_id]
            node["inputs"] = {name: value for name, value in node["inputs"].items() if name not in gone}
            inputs = inputs_of(info[node["class_type"]], node["inputs"])
            if other not in waiting and any(name in inputs and inputs[name].required for name in gone):
                remarks.append(f"{title_of(prompt, other, info)} is not run where {title} is muted, which it needs.")
                waiting.append(other)
    return remarks


def bypass(prompt: Prompt, node_id: str, info: Info) -> None:
    """Take a node out and connect each of its outputs with its first input of the same type, as the front end does."""
    node = prompt[node_id]
    types = info[node["class_type"]].get("output", [])

    def source_of(slot: int) -> list[Any] | None:
        for _, source, source_slot in links_of(node["inputs"]):
            outputs = info[prompt[source]["class_type"]].get("output", [])
            if source_slot < len(outputs) and slot < len(types) and outputs[source_slot] == types[slot]:
                return [source, source_slot]
        return None

    for other in prompt.values():
        kept = {}
        for name, value in other["inputs"].items():
            if is_link(value) and value[0] == node_id:
                value = source_of(value[1])
                if value is None:
                    continue
            kept[name] = value
        other["inputs"] = kept
    del prompt[node_id]
