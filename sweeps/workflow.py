"""A saved workflow in ComfyUI's API form, whichever form it was saved in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from .conversion import Converted, MissingNodes, NotConvertible, ShownWidget, convert
from .conversion.dynamic_prompts import Choose, OpenChoice, read, single
from .png import SIGNATURE, read_text
from .schema import Info, inputs_of, is_link, links_of

Prompt = dict[str, dict[str, Any]]  # node id -> {"class_type", "inputs", "_meta"}


@dataclass(frozen=True)
class Names:
    """What people see of a workflow in UI form that its prompt does not have.

    shown: widgets of subgraphs and primitives. paths: of nodes in subgraphs, by id: "Title of the subgraph/Title".
    """

    shown: tuple[ShownWidget, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


NO_NAMES = Names()


@dataclass(frozen=True)
class Workflow:
    """A workflow of a file. prompt: in API form, with its texts as they are written. saved: whether it was in UI form.

    names: by which people know parts of it, besides the titles in the prompt. remarks: what should be looked at.
    dynamic: (node id, input) of the texts in it whose comments and {a|b} ComfyUI's page reads when it makes a prompt;
    of an API file, in which it has done so, the texts in inputs of that kind.
    """

    prompt: Prompt
    dynamic: frozenset[tuple[str, str]]
    saved: bool
    names: Names
    remarks: tuple[str, ...] = ()


def read_workflow(path: Path, info: Info, front_end: str = "", choose: Choose = single) -> Prompt:
    """The workflow of a file, in API form, as ComfyUI would run it. choose: as of `with_texts_read`.

    Raises ValueError as `open_workflow` and `with_texts_read` do.
    """
    return with_texts_read(open_workflow(path, info, front_end), path, info, choose)


def with_texts_read(workflow: Workflow, path: Path, info: Info, choose: Choose = single) -> Prompt:
    """The prompt of a workflow with the texts of a UI form read; those of an API file are as they are sent.

    choose: picks one of the options of {a|b}. Raises ValueError for a choice between several, where nobody chooses.
    """
    prompt = copy.deepcopy(workflow.prompt)
    for node_id, name in sorted(workflow.dynamic) if workflow.saved else ():
        inputs = prompt[node_id]["inputs"]
        try:
            inputs[name] = read(inputs[name], choose)
        except OpenChoice as error:
            raise ValueError(
                f"{path}: {title_of(prompt, node_id, info)} ({node_id}): `{name}` has the choice {error}, which the "
                "page draws anew at each run: write one of its options, make them the values of an axis, or have one "
                "drawn for each cell by `choice_seed` in the plan."
            ) from error
    return prompt


def open_workflow(path: Path, info: Info, front_end: str = "") -> Workflow:
    """The workflow of a file. front_end: the version of the server's page, "" where it is not known.

    Raises:
        ValueError: the file is missing or no workflow, it has nodes that the server lacks, a connection leads nowhere,
            or its UI form cannot be converted. One sentence that names the file.
    """
    names, remarks = NO_NAMES, tuple[str, ...]()
    try:
        data = _read(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"The workflow {path} does not exist: check `workflow` in the plan.") from None
    except OSError as error:
        raise ValueError(
            f"The workflow {path} cannot be read ({error.strerror}): check `workflow` in the plan."
        ) from error
    except (ValueError, RecursionError) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"The workflow {path} cannot be read ({why}): save it again from ComfyUI.") from error
    saved = isinstance(data, dict) and isinstance(data.get("nodes"), list)
    if saved:
        converted = _converted(data, path, info, front_end)
        prompt, dynamic = converted.prompt, converted.dynamic
        names = Names(tuple(converted.shown.values()), converted.paths)
        remarks = tuple(f"{path.name}: {remark}" for remark in converted.remarks)
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
                and isinstance(node.get("_meta") or {}, dict)
                for node in data.values()
            )
        ):
            raise ValueError(f"{path} is not a ComfyUI workflow: save it in ComfyUI with Save or Export (API).")
        prompt = copy.deepcopy(data)
        _check_types((node["class_type"] for node in prompt.values()), path, info)
        dynamic = [
            (node_id, name)
            for node_id, node in prompt.items()
            for name, value in node["inputs"].items()
            if isinstance(value, str) and reads_choices(info, node, name)
        ]
    for node_id, node in prompt.items():
        for name, source, _ in links_of(node["inputs"]):
            if source not in prompt:
                raise ValueError(
                    f"{path}: {title_of(prompt, node_id, info)} ({node_id}) takes `{name}` from the node "
                    f"{source}, which is not in the workflow: repair it in ComfyUI and save it again."
                )
    try:
        order(prompt)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Workflow(prompt, frozenset(dynamic), saved, names, remarks)


def _read(content: bytes) -> Any:
    """The JSON of a file: of a picture, what ComfyUI has written into it of the workflow that made it.

    Raises ValueError if there is none.
    """
    if not content.startswith(SIGNATURE):
        return json.loads(content)
    texts = read_text(content)
    if "workflow" in texts:
        return json.loads(texts["workflow"])
    if "prompt" in texts:
        return json.loads(texts["prompt"])
    raise ValueError("the picture has no workflow in it")


def _check_types(types: Iterable[str], path: Path, info: Info) -> None:
    missing = sorted({kind for kind in types if kind not in info})
    if missing:
        raise ValueError(
            f"{path} needs nodes that this ComfyUI does not have: {_listed(missing)}. Install their "
            "packs (ComfyUI Manager: Install Missing Custom Nodes), and see ComfyUI's log for packs that "
            "failed to load."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return _line(", ".join(names[:20])) + more


def _line(text: str) -> str:
    """A text in one line of bounded length: names and values in a file can be anything."""
    line = " ".join(text.split())
    return line if len(line) <= 1500 else f"{line[:1200]} ... {line[-290:]}"


def _converted(data: dict[str, Any], path: Path, info: Info, front_end: str) -> Converted:
    """The API form of a workflow in UI form, as ComfyUI's page would send it."""
    try:
        converted = convert(data, info, front_end)
    except MissingNodes as error:
        _check_types(error.types, path, info)
        raise
    except NotConvertible as error:
        raise ValueError(f"{path} cannot be converted to the API form: {_line(str(error))}.") from error
    if not converted.prompt:
        raise ValueError(f"{path} has no node that runs: all of them are muted, bypassed or notes.")
    return converted


def reads_choices(info: Info, node: Mapping[str, Any], name: str) -> bool:
    """Whether the page reads comments and {a|b} in the text of that input."""
    item = inputs_of(info[node["class_type"]], node["inputs"]).get(name)
    return item is not None and item.type == "STRING" and item.options.get("dynamicPrompts") is True


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
