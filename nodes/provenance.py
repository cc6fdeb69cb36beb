"""The provenance of pictures in a workflow: the seeds and files of the nodes behind an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..sweeps.training_nodes import trains

MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
_SEEDS = ("seed", "noise_seed")


def upstream(prompt: Mapping[str, Any] | None, node_id: str | None, name: str) -> dict[str, list[Any]]:
    """`seeds` of sampling, `training_seeds`, and `files` of models behind the input `name` of a node.

    prompt: the workflow in ComfyUI's API form (the hidden input of that name). Names of a growing input begin with
    `name`. What is not there is skipped.
    """
    values_by_kind: dict[str, list[Any]] = {"seeds": [], "training_seeds": [], "files": []}
    if not prompt or node_id is None or node_id not in prompt:
        return {}
    inputs = prompt[node_id]["inputs"]
    waiting = [value[0] for key, value in inputs.items() if key.split(".")[0] == name and is_link(value)]
    seen: set[str] = set()
    while waiting:
        here = waiting.pop(0)
        if here in seen or here not in prompt:
            continue
        seen.add(here)
        inputs = prompt[here]["inputs"]
        for key, value in inputs.items():
            if key in _SEEDS and isinstance(seed := constant(prompt, value), int):
                values_by_kind["training_seeds" if trains(prompt[here]) else "seeds"].append(seed)
            elif isinstance(value, str) and value.lower().endswith(MODEL_SUFFIXES):
                values_by_kind["files"].append(value)
            if is_link(value):
                waiting.append(value[0])
    return {kind: sorted(set(values)) for kind, values in values_by_kind.items() if values}


def graph_of(prompt: Mapping[str, Any] | None, node_id: str | None, names: Sequence[str]) -> dict[str, Any]:
    """The nodes behind some inputs of a node, without their ids, for a hash of what these inputs are made of."""
    if not prompt or node_id is None or node_id not in prompt:
        return {}
    made: dict[str, int] = {}
    nodes: list[Any] = []

    def place(value: Any) -> Any:
        if not is_link(value) or value[0] not in prompt:
            return value
        if value[0] not in made:
            made[value[0]] = -1  # a loop refers to itself
            node = prompt[value[0]]
            inputs = {name: place(item) for name, item in sorted(node["inputs"].items())}
            made[value[0]] = len(nodes)
            nodes.append([node.get("class_type"), inputs])
        return ["from", made[value[0]], value[1]]

    inputs = prompt[node_id]["inputs"]
    return {"inputs": {name: place(inputs.get(name)) for name in names}, "nodes": nodes}


def is_link(value: Any) -> bool:
    """Whether an input is connected to another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def constant(prompt: Mapping[str, Any], value: Any) -> Any:
    """An input's value, or that of the primitive node that it is connected to."""
    if is_link(value):
        return prompt.get(value[0], {}).get("inputs", {}).get("value")
    return value
