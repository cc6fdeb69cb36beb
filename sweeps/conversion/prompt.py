"""The prompt of a workflow in UI form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import EXPORT, NotConvertible, refused
from .file_names import SAVING, replaced
from .graph import BYPASSED, MUTED, read
from .hosts import Opened, opened
from .links import VIRTUAL, HostValue, NodeOutput, Path, Resolver
from .nodes import ABSENT, Info, Node, after_opening, browser_made, sent_value
from .primitives import make_primitives, push_values

# The front ends whose rules these are; hosts have values of their own since one between them.
FIRST, LAST, BEYOND = (1, 45), (1, 47), (1, 48)
Prompt = dict[str, dict[str, Any]]
# Nodes of packs' JavaScript that change nothing in what is sent.
DECORATIONS = {
    *("Label (rgthree)", "Bookmark (rgthree)", "Fast Muter (rgthree)", "Fast Bypasser (rgthree)"),
    *("Fast Groups Muter (rgthree)", "Fast Groups Bypasser (rgthree)", "Fast Actions Button (rgthree)"),
    *("Mute / Bypass Repeater (rgthree)", "Mute / Bypass Relay (rgthree)", "Node Collector (rgthree)"),
    *("Random Unmuter (rgthree)",),
}


@dataclass
class Converted:
    """A converted workflow.

    prompt: API form. dynamic: (node id, input) of the texts in it whose comments and {a|b} the page would read.
    """

    prompt: Prompt
    dynamic: list[tuple[str, str]] = field(default_factory=list)


def convert(data: Mapping[str, Any], info: Info, front_end: str = "") -> Converted:
    """The prompt that the page would send for a workflow in UI form, with its texts as they are written.

    data: the workflow. info: /object_info of the server. front_end: the version of its page, "" where it is not known.

    Raises NotConvertible where it cannot be known, or the page would fail: node, input and the way out.
    """
    version = numbered(front_end)
    if version and not FIRST <= version < BEYOND:
        raise NotConvertible(
            f"the page of this ComfyUI (front end {front_end}) may read a saved workflow by other rules than those of "
            f"{_written(FIRST)} to {_written(LAST)}, which this version of the pack knows; {EXPORT}"
        )
    if version and version < (1, 46):
        return _convert(data, info, shared=True)
    newer = _convert(data, info, shared=False)
    if (not version or version < LAST) and newer != _convert(data, info, shared=True):
        raise NotConvertible(
            "its subgraphs' widgets have other values in older front ends than in newer ones, and which one this "
            f"ComfyUI has is not known; {EXPORT}"
        )
    return newer


def numbered(version: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None if it has none."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def _written(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _convert(data: Mapping[str, Any], info: Info, shared: bool) -> Converted:
    workflow = opened(read(data), info, shared)
    make_primitives(workflow)
    for node in workflow.every():
        after_opening(node)
    push_values(workflow)
    resolver, result = Resolver(workflow), Converted({})
    for node, path in _sent(workflow, workflow.nodes[""], ()):
        if _left_out(workflow, node):
            continue
        _check_known(node)
        _add(result, workflow, resolver, node, path)
    for entry in result.prompt.values():
        entry["inputs"] = {
            name: value
            for name, value in entry["inputs"].items()
            if not (isinstance(value, list) and value[0] not in result.prompt)
        }
    return result


def _sent(workflow: Opened, nodes: Mapping[str, Node], path: Path) -> Iterator[tuple[Node, Path]]:
    """The nodes that are sent, with the hosts around them; those inside a nested host whatever the host's mode is."""
    for node in nodes.values():
        off = node.mode in (MUTED, BYPASSED)
        if node.host:
            if path or not off:
                yield from _sent(workflow, workflow.of(node.host), (*path, node))
        elif not off and node.type not in VIRTUAL:
            yield node, path


def _left_out(workflow: Opened, node: Node) -> bool:
    """Whether a node that the server does not have changes nothing in what is sent."""
    if node.definition is not None:
        return False
    linked = any(slot.link is not None for slot in node.slots) or any(output.links for output in node.outputs)
    return node.type in DECORATIONS or not linked


def _check_known(node: Node) -> None:
    if node.definition is not None:
        return
    if node.type.startswith(("workflow/", "workflow>")):
        raise refused(node.where, "is a group node of an older front end")
    raise refused(
        node.where,
        f"this ComfyUI has no node {node.type}",
        "install its pack (ComfyUI Manager: Install Missing Custom Nodes), and look into ComfyUI's log whether it "
        f"failed to load; if it is a node of a pack's JavaScript alone, {EXPORT}",
    )


def _key(node: Node, path: Path) -> str:
    return ":".join([*(host.id for host in path), node.id])


def _add(result: Converted, workflow: Opened, resolver: Resolver, node: Node, path: Path) -> None:
    key = _key(node, path)
    own = {widget.name: widget for widget in node.widgets if widget.sent}
    linked: dict[str, Any] = {}
    for place, slot in enumerate(node.slots):
        got = resolver.input(node, path, place)
        if isinstance(got, NodeOutput):
            linked[slot.name] = [_key(got.node, got.path), got.slot]
        elif isinstance(got, HostValue):
            linked[slot.name] = {"__value__": got.value} if isinstance(got.value, list) else got.value
    inputs: dict[str, Any] = {}
    for name, widget in own.items():
        if name in linked:
            continue
        made = browser_made(widget)
        if made:
            raise refused(f"{node.where}: `{name}`", f"is {made}, which the browser makes")
        value = sent_value(node, widget)
        if name == "filename_prefix" and node.type in SAVING:
            value = replaced(workflow, f"{node.where}: `{name}`", value)
        if widget.dynamic and isinstance(value, str):
            result.dynamic.append((key, name))
        inputs[name] = value
    inputs |= linked
    result.prompt[key] = {
        "inputs": {name: value for name, value in inputs.items() if value is not ABSENT},
        "class_type": node.type,
        "_meta": {"title": node.title},
    }
