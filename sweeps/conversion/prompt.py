"""The prompt of a workflow in UI form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .checks import check_connection, check_count, check_known, check_value, remarks_on
from .errors import EXPORT, MissingNodes, NotConvertible, refused
from .file_names import SAVING, replaced
from .front_ends import BEYOND, FIRST, LAST, numbered, written
from .graph import BYPASSED, MUTED, read
from .hosts import Opened, opened
from .links import VIRTUAL, HostValue, NodeOutput, Path, Resolver
from .nodes import ABSENT, Info, Node
from .primitives import make_primitives, push_values
from .values import after_opening, browser_made, sent_value

_Prompt = dict[str, dict[str, Any]]
# Nodes of packs' JavaScript that change nothing in what is sent.
DECORATIONS = {
    *("Label (rgthree)", "Bookmark (rgthree)", "Fast Muter (rgthree)", "Fast Bypasser (rgthree)"),
    *("Fast Groups Muter (rgthree)", "Fast Groups Bypasser (rgthree)", "Fast Actions Button (rgthree)"),
    *("Mute / Bypass Repeater (rgthree)", "Mute / Bypass Relay (rgthree)", "Node Collector (rgthree)"),
    *("Random Unmuter (rgthree)",),
}


@dataclass(frozen=True)
class ShownWidget:
    """A widget that people see at a subgraph or a primitive. id, title: of that node.

    path: the titles of those around it, and its own. name: of the widget. inputs: (node id, input) of all that get its
    value.
    """

    id: str
    title: str
    path: str
    name: str
    inputs: list[tuple[str, str]]


@dataclass
class Converted:
    """A converted workflow.

    prompt: API form. dynamic: (node id, input) of the texts in it whose comments and {a|b} the page would read. shown:
    by id and name. paths: of the nodes in subgraphs, the titles from the outermost on, with / between them. remarks:
    what the page does in silence with values that do not fit, and inputs that the server will miss.
    """

    prompt: _Prompt
    dynamic: list[tuple[str, str]] = field(default_factory=list)
    shown: dict[tuple[str, str], ShownWidget] = field(default_factory=dict, compare=False)
    paths: dict[str, str] = field(default_factory=dict, compare=False)
    remarks: list[str] = field(default_factory=list, compare=False)

    def show(self, node: Node, path: Path, name: str, target: tuple[str, str]) -> None:
        """An input of the prompt gets the value of a widget of a node that is not sent. path: some way to its graph."""
        graphs = [None, *(host.host for host in path)]
        depth = next((place for place, graph in enumerate(graphs) if graph is node.graph), 0)
        key, titles = _key(node, path[:depth]), _titles(node, path[:depth])
        self.shown.setdefault((key, name), ShownWidget(key, node.title, titles, name, [])).inputs.append(target)


def convert(data: Mapping[str, Any], info: Info, front_end: str = "") -> Converted:
    """The prompt that the page would send for a workflow in UI form, with its texts as they are written.

    data: the workflow. info: /object_info of the server. front_end: the version of its page, "" where it is not known.

    Raises NotConvertible where it cannot be known, or the page would fail: node, input and the way out.
    """
    version = numbered(front_end)
    if version and not FIRST <= version < BEYOND:
        raise NotConvertible(
            f"the page of this ComfyUI (front end {front_end}) may read a saved workflow by other rules than those of "
            f"{written(FIRST)} to {written(LAST)}, which this version of the pack knows; {EXPORT}"
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


def _convert(data: Mapping[str, Any], info: Info, shared: bool) -> Converted:
    workflow = opened(read(data), info, shared)
    make_primitives(workflow)
    for node in workflow.every():
        after_opening(node)
    push_values(workflow)
    resolver, result = Resolver(workflow), Converted({})
    sent = [each for each in _sent(workflow, workflow.nodes[""], ()) if not _left_out(each[0])]
    _check_classes([node for node, _ in sent])
    for node, path in sent:
        check_known(node)
        check_count(node, info)
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


def _left_out(node: Node) -> bool:
    """Whether a node that the server does not have changes nothing in what is sent."""
    if node.definition is not None:
        return False
    linked = any(slot.link is not None for slot in node.slots) or any(output.links for output in node.outputs)
    return node.type in DECORATIONS or not linked


def _check_classes(nodes: list[Node]) -> None:
    unknown = [node for node in nodes if node.definition is None]
    for node in unknown:
        if node.type.startswith(("workflow/", "workflow>")):
            raise refused(node.where, "is a group node of an older front end")
    if unknown:
        raise MissingNodes(sorted({node.type for node in unknown}))


def _key(node: Node, path: Path) -> str:
    return ":".join([*(host.id for host in path), node.id])


def _titles(node: Node, path: Path) -> str:
    return "/".join(each.title for each in (*path, node))


def _add(result: Converted, workflow: Opened, resolver: Resolver, node: Node, path: Path) -> None:
    key = _key(node, path)
    own = {widget.name: widget for widget in node.widgets if widget.sent}
    linked: dict[str, Any] = {}
    for place, slot in enumerate(node.slots):
        got = resolver.input(node, path, place)
        if isinstance(got, NodeOutput):
            check_connection(node, slot, got.node, got.slot)
            linked[slot.name] = [_key(got.node, got.path), got.slot]
        elif isinstance(got, HostValue):
            if slot.name in own and got.value is not ABSENT:
                check_value(node, slot.name, own[slot.name].item, got.value)
            linked[slot.name] = {"__value__": got.value} if isinstance(got.value, list) else got.value
            result.show(got.host, got.path, got.slot.name, (key, slot.name))
            if got.slot.fed:
                result.show(got.slot.fed, got.path, "value", (key, slot.name))
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
        if value is not ABSENT:
            check_value(node, name, widget.item, value)
        if widget.dynamic and isinstance(value, str):
            result.dynamic.append((key, name))
        inputs[name] = value
        if widget.fed:
            result.show(widget.fed, path, "value", (key, name))
    inputs |= linked
    if path:
        result.paths[key] = _titles(node, path)
    result.prompt[key] = {
        "inputs": {name: value for name, value in inputs.items() if value is not ABSENT},
        "class_type": node.type,
        "_meta": {"title": node.title},
    }
    result.remarks += remarks_on(node, result.prompt[key]["inputs"])
