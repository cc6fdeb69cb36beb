"""Write interface.json, the record of what saved workflows depend on: ids, inputs, widgets and outputs of all nodes.

    make generated PARTS=interface

What is only added is recorded. The script refuses what would break saved workflows; tests/comfy/test_interface.py finds
the same. A node that has to change in such a way gets a new id, its old one an entry in nodes/replaced.py, and
CHANGELOG.md names the old one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generated import ROOT, Pack, ask, write

TARGET = ROOT / "interface.json"
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}
# One node: {"inputs": {name: what}, "outputs": [what]}. A name is that of the API, with the option of a dynamic choice
# that it belongs to: "method[deft].rank". What is a type, and "optional", "widget" and "control" (a second widget).
_Node = dict[str, Any]
# The front end gives these a second widget, control after generate, unless the node itself says whether it has one.
_SEEDS = ("seed", "noise_seed")
NodeLayout = dict[tuple[str, ...], list[str]]


def _definitions(inputs: Mapping[str, Any]) -> Iterator[tuple[str, list[Any], bool]]:
    """The inputs in the order of the front end: name, definition, whether optional."""
    for group in ("required", "optional"):
        for name, definition in (inputs.get(group) or {}).items():
            yield name, definition, group == "optional"


def _inputs(inputs: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, (kind, *more), optional in _definitions(inputs):
        options = more[0] if more else {}
        kind = "COMBO" if isinstance(kind, list) else kind
        template = options.get("template")
        if template:  # many inputs of one kind: images.images0, images.images1 ...
            ((_, (inner, *_), _),) = _definitions(template["input"])
            kind += f" {template.get('prefix', '')} {inner}"
        marks = [kind]
        if optional:
            marks.append("optional")
        if kind in _WIDGETS and not options.get("forceInput"):
            marks.append("widget")
        if options.get("control_after_generate"):
            marks.append("control")
        yield f"{before}{name}", ", ".join(marks)
        for option in options.get("options", ()) if kind == DYNAMIC else ():
            place = f"{before}{name}[{option['key']}]"
            yield place, "option"
            yield from _inputs(option["inputs"], f"{place}.")


def describe(info: Mapping[str, Any]) -> _Node:
    """The record of one node, from its entry in ComfyUI's /object_info."""
    outputs = [
        f"{name}: {'COMBO' if isinstance(kind, list) else kind}"
        for name, kind in zip(info["output_name"], info["output"], strict=True)
    ]
    return {"inputs": dict(_inputs(info["input"])), "outputs": outputs}


def layouts(node: _Node) -> NodeLayout:
    """The widgets in their order, for each choice of options: workflows keep their values by position."""
    orders: NodeLayout = {(): []}
    options: dict[str, list[str]] = {}
    for name, what in node["inputs"].items():
        if what == "option":
            options.setdefault(name[: name.rindex("[")], []).append(name)
    for name, what in node["inputs"].items():
        marks = what.split(", ")
        if "widget" in marks:
            above = name.rpartition("].")[0]
            grown: NodeLayout = {}
            for chosen, widgets in orders.items():
                if above and f"{above}]" not in chosen:
                    grown[chosen] = widgets
                    continue
                controlled = "control" in marks or (marks[0] == "INT" and name.rpartition(".")[2] in _SEEDS)
                longer = [*widgets, name, *([f"{name} control"] if controlled else ())]
                for option in options.get(name, [""]):
                    grown[(*chosen, option) if option else chosen] = longer
            orders = grown
    return orders


def broken(name: str, old: _Node, new: _Node) -> list[str]:
    """The changes of a node after which workflows saved before fail or mean something else."""
    breaks = []
    for key, what in old["inputs"].items():
        kind, now = what.split(", "), new["inputs"].get(key, "").split(", ")
        if not now[0]:
            breaks.append(f"{name}: input {key} is gone")
        elif kind[0] != now[0]:
            breaks.append(f"{name}: input {key} was {kind[0]} and is {now[0]}")
        elif "optional" in kind and "optional" not in now:
            breaks.append(f"{name}: input {key} was optional")
        elif ("widget" in kind) != ("widget" in now):
            breaks.append(f"{name}: input {key} {'was' if 'widget' in kind else 'is'} a widget")
    for key, what in new["inputs"].items():
        inside = key.rpartition("].")[0]
        if (
            key not in old["inputs"]
            and what != "option"
            and "optional" not in what.split(", ")
            and (not inside or f"{inside}]" in old["inputs"])
        ):
            breaks.append(f"{name}: input {key} is new and not optional")
    now_by_choice = layouts(new)
    for chosen, widgets in layouts(old).items():
        now_widgets = next((order for choice, order in now_by_choice.items() if set(chosen) <= set(choice)), None)
        if now_widgets is not None and now_widgets[: len(widgets)] != widgets:
            choice = f" with {', '.join(chosen)}" if chosen else ""
            breaks.append(
                f"{name}: the widgets{choice} were {', '.join(widgets)}, and are {', '.join(now_widgets)}; "
                "new ones belong at the end"
            )
    for index, output in enumerate(old["outputs"]):
        now_output = new["outputs"][index] if index < len(new["outputs"]) else "gone"
        if output != now_output:
            breaks.append(f"{name}: output {index} was {output} and is {now_output}")
    return breaks


def problems(
    record: Mapping[str, Any], nodes: Mapping[str, _Node], replaced: Mapping[str, str], changelog: str
) -> list[str]:
    """The changes that break workflows saved with the recorded nodes, a sentence each.

    replaced: new id by old one, of nodes/replaced.py.
    """
    breaks = []
    for name, old in record["nodes"].items():
        if name in nodes:
            breaks += [
                f"{text}. Give the changed node a new id, and {name} an entry in nodes/replaced.py."
                for text in broken(name, old, nodes[name])
            ]
        else:
            breaks += _missing(name, nodes, replaced, changelog)
    for name in record["replaced"]:
        breaks += _missing(name, nodes, replaced, changelog)
    breaks += [
        f"{name} stands in nodes/replaced.py, but is a node: ComfyUI would not replace it."
        for name in replaced
        if name in nodes
    ]
    return breaks


def _missing(name: str, nodes: Mapping[str, _Node], replaced: Mapping[str, str], changelog: str) -> list[str]:
    if name not in replaced:
        return [f"{name} is gone: add a NodeReplace to nodes/replaced.py."]
    if replaced[name] not in nodes:
        return [f"{name} is replaced by {replaced[name]}, which is no node."]
    if not re.search(rf"\b{name}\b", changelog):
        return [f"{name} is replaced, and CHANGELOG.md does not name it."]
    return []


def record_of(nodes: Mapping[str, _Node], replaced: Mapping[str, str]) -> dict[str, Any]:
    """The record of the nodes that is written to the file."""
    return {"nodes": {name: nodes[name] for name in sorted(nodes)}, "replaced": dict(sorted(replaced.items()))}


def files(pack: Pack) -> dict[Path, str]:
    """The record. Raises ValueError where workflows of earlier releases would break."""
    if TARGET.is_file():
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        nodes = {name: describe(info) for name, info in pack.nodes.items()}
        lines = problems(json.loads(TARGET.read_text(encoding="utf-8")), nodes, pack.replaced, changelog)
        if lines:
            raise ValueError("\n".join(["workflows of earlier releases would break:", *lines]))
    record = record_of({name: describe(info) for name, info in pack.nodes.items()}, pack.replaced)
    return {TARGET: json.dumps(record, indent=1, ensure_ascii=False) + "\n"}


def main() -> None:
    """Ask a server for the nodes; write the file, or list what would break."""
    try:
        write(files(ask()))
    except ValueError as error:
        sys.exit(f"[generated] {error}")


if __name__ == "__main__":
    main()
