"""Cutting training out of a workflow: a training cell saves the adapter, the picture cells load its file.

A training node whose adapter is used by other nodes is run once with what it needs, with a Save Adapter behind it. In
the picture cells a Load Adapter File stands in its place, or for Textual Inversion the text "embedding:name". What else
the training node gives (a loss plot) goes to output nodes that run in the training cell.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from .files import SWEEPS_FOLDER
from .schema import Info, default_of, inputs_of, links_of
from .training_nodes import TRAINERS
from .workflow import Prompt, needed_by, title_of

SAVER, LOADER, SCORE_SAVER = "DEFTSaveAdapter", "DEFTLoadAdapterFile", "DEFTSaveScores"
SCORES = "DEFT_SCORES"


@dataclass(frozen=True)
class Cut:
    """The division of one workflow. trainers: training node -> output nodes that run in its training cell.

    pictures: output nodes of the picture cell. remarks: training nodes that could not be cut out, and why.
    """

    trainers: dict[str, tuple[str, ...]]
    pictures: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def find_cut(prompt: Prompt, outputs: Sequence[str], info: Info, embeddings: bool) -> Cut:
    """The training nodes that are cut out, and the cells in which output nodes run.

    embeddings: the server takes files of embeddings, see `Facts.embeddings`.
    """
    candidates = [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] in TRAINERS
        and any(
            _is_adapter(prompt, source, slot) and source == node_id
            for other in prompt.values()
            for _, source, slot in links_of(other["inputs"])
        )
    ]
    remarks = []
    if candidates and not {SAVER, LOADER} <= set(info):
        remarks.append(
            "This ComfyUI has no Save Adapter and no Load Adapter File (the pack is not installed there), "
            "so every cell trains its own adapter."
        )
        candidates = []
    for trainer in [] if embeddings else [node for node in candidates if is_embedding(prompt[node])]:
        candidates.remove(trainer)
        remarks.append(
            f"{title_of(prompt, trainer, info)} trains in every cell that needs it: only a server with a folder of "
            "embeddings in its output or input folder can be given one (docs/sweeps.md)."
        )
    while True:
        apart = _without_adapters(prompt, candidates)
        owners = {output: needed_by(apart, [output]) & set(candidates) for output in outputs}
        inseparable = next(
            (
                (output, sorted(trainers))
                for output, trainers in owners.items()
                if len(trainers) > 1 or any(_uses_adapter(prompt, apart, output, trainer) for trainer in trainers)
            ),
            None,
        ) or _in_a_circle(prompt, candidates, owners)
        if inseparable is None:
            break
        output, trainers = inseparable
        for trainer in trainers:
            candidates.remove(trainer)
            remarks.append(
                f"{title_of(prompt, trainer, info)} trains in every cell that needs it: "
                f"{title_of(prompt, output, info)} needs more of it than the adapter."
            )
    pictures = tuple(output for output in outputs if not owners[output])
    if not pictures:
        return Cut({}, tuple(outputs), tuple(remarks))
    return Cut(_outputs_of(candidates, owners), pictures, tuple(remarks))


def _outputs_of(trainers: Iterable[str], owners: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Training node -> output nodes that run in its training cell. owners: output node -> its training nodes."""
    return {
        trainer: tuple(output for output, owned_by in owners.items() if trainer in owned_by) for trainer in trainers
    }


def built_on(prompt: Prompt, trainers: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Training node -> the others whose adapters its training cell needs, for itself or for its output nodes."""
    needed = {trainer: needed_by(prompt, [trainer, *outputs]) for trainer, outputs in trainers.items()}
    return {
        trainer: tuple(other for other in trainers if other != trainer and other in needed[trainer])
        for trainer in trainers
    }


def _in_a_circle(
    prompt: Prompt, trainers: Sequence[str], owners: Mapping[str, set[str]]
) -> tuple[str, list[str]] | None:
    """An output node, with its training node, by which training cells need one another in a circle; None if none is."""
    try:
        TopologicalSorter(built_on(prompt, _outputs_of(trainers, owners))).prepare()
    except CycleError as error:
        circle = set(error.args[1])
        return next(
            (output, sorted(owned_by))
            for output, owned_by in owners.items()
            if owned_by & circle and needed_by(prompt, [output]) & (circle - owned_by)
        )
    return None


def _is_adapter(prompt: Prompt, source: str, slot: int) -> bool:
    trainer = TRAINERS.get(prompt[source]["class_type"])
    return trainer is not None and trainer.used == slot


def is_embedding(node: Mapping[str, Any]) -> bool:
    """Whether a training node makes an embedding."""
    return TRAINERS[node["class_type"]].embedding


def _without_adapters(prompt: Prompt, trainers: Sequence[str]) -> Prompt:
    """The workflow without the connections that carry adapters of these training nodes."""
    return {
        node_id: {
            **node,
            "inputs": {
                name: value
                for name, value in node["inputs"].items()
                if not (
                    isinstance(value, list) and len(value) == 2 and value[0] in trainers and _is_adapter(prompt, *value)
                )
            },
        }
        for node_id, node in prompt.items()
    }


def _uses_adapter(prompt: Prompt, apart: Prompt, output: str, trainer: str) -> bool:
    """Whether the output node needs the adapter, too, and not only what else the training node gives."""
    return any(
        source == trainer and _is_adapter(prompt, source, slot)
        for node_id in needed_by(apart, [output])
        for _, source, slot in links_of(prompt[node_id]["inputs"])
    )


def training_prompt(
    prompt: Prompt, trainer: str, outputs: Sequence[str], adapters: Mapping[str, str], key: str, info: Info
) -> Prompt:
    """The prompt of a training cell: the training node, a Save Adapter behind it, and the output nodes beside it.

    adapters: training node -> name of the file that stands in its place (for a training on top of another one). The
    adapter is saved into a folder of its own, so that its name, which is written into it, is the same in every run.
    """
    result = _loading(prompt, {node: name for node, name in adapters.items() if node != trainer}, info)
    saver = _free_id(result)
    result[saver] = _node(
        SAVER,
        info,
        adapter=[trainer, TRAINERS[prompt[trainer]["class_type"]].saved],
        filename_prefix=f"{SWEEPS_FOLDER}/{uuid.uuid4().hex}/{key}",
        place="output",
    )
    return _only(result, [*outputs, saver])


def picture_prompt(prompt: Prompt, outputs: Sequence[str], adapters: Mapping[str, str], info: Info) -> Prompt:
    """The prompt of a picture cell, with a Save Scores behind every node whose scores nothing writes to a file."""
    result = _only(_loading(prompt, adapters, info), outputs)
    if SCORE_SAVER in info:
        saved = [node_id for node_id, node in result.items() if node["class_type"] == SCORE_SAVER]
        behind = needed_by(result, saved)
        for node_id, node in list(result.items()):
            types = info[node["class_type"]].get("output", [])
            if SCORES in types and node_id not in behind:
                result[_free_id(result)] = _node(
                    SCORE_SAVER,
                    info,
                    filename_prefix=f"{SWEEPS_FOLDER}/scores",
                    **{"scores.scores0": [node_id, types.index(SCORES)]},
                )
    return result


def _loading(prompt: Prompt, adapters: Mapping[str, str], info: Info) -> Prompt:
    """The workflow with a loader, or an embedding's name, in the place of each of these training nodes' adapters."""
    result = copy.deepcopy(prompt)
    for trainer, name in adapters.items():
        loader = _free_id(result)
        stands: Any = [loader, 0]
        if is_embedding(prompt[trainer]):
            stands = f"embedding:{name.removesuffix('.safetensors')}"
        else:
            result[loader] = _node(LOADER, info, file=name)
        for node in result.values():
            for place, source, slot in links_of(node["inputs"]):
                if source == trainer and _is_adapter(prompt, trainer, slot):
                    node["inputs"][place] = stands
    return result


def _node(class_type: str, info: Info, **inputs: Any) -> dict[str, Any]:
    """A node with its defaults, but for these inputs."""
    declared = inputs_of(info[class_type], {})
    defaults = {
        name: value for name, item in declared.items() if item.required and (value := default_of(item)) is not None
    }
    return {"class_type": class_type, "inputs": {**defaults, **inputs}}


def _only(prompt: Prompt, outputs: Sequence[str]) -> Prompt:
    keep = needed_by(prompt, list(outputs))
    return {node_id: node for node_id, node in prompt.items() if node_id in keep}


def _free_id(prompt: Prompt) -> str:
    """An id that no node has."""
    number = len(prompt) + 1
    while (name := f"sweep{number}") in prompt:
        number += 1
    return name
