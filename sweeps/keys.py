"""The keys of a template's cells.

A key is a hash of what is run: of each node its type, its inputs and the hashes of the nodes that it needs (a Merkle
tree, so ids do not matter); of each named file its content, models by size and header. Equal cells of any plan have
equal keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .cutting import Cut, built_on, find_cut
from .files import Files
from .planned import CellChoice, PlannedTraining
from .schema import converted, inputs_of, is_link, links_of
from .template import Template
from .training_nodes import TRAINERS
from .workflow import needed_by, order

MODEL_TYPES = {"MODEL", "CLIP", "VAE"}


class KeyedTemplate:
    """A template, and its keys: a node is hashed again only if an axis that it depends on has moved."""

    def __init__(self, template: Template, files: Files, embeddings: bool) -> None:
        self.template, self.files = template, files
        prompt = template.prompt
        self.cut: Cut = find_cut(prompt, template.outputs, template.info, embeddings)
        self.order = order(prompt)
        self.before_training = needed_by(prompt, list(self.cut.trainers))
        self.all_axes: dict[str, set[int]] = {}
        for node_id in self.order:
            axes = set(template.direct[node_id])
            for value in prompt[node_id]["inputs"].values():
                if is_link(value):
                    axes |= self.all_axes[value[0]]
            self.all_axes[node_id] = axes
        self.digests: dict[str, bytes] = {}
        self.parts: dict[str, dict[CellChoice, list[bytes | tuple[str, bytes]]]] = {
            node_id: {} for node_id in self.order
        }
        self.moved: list[list[str]] = []
        self.trained: dict[tuple[bytes, ...], PlannedTraining] = {}
        self.used = needed_by(prompt, list(self.cut.pictures))
        self.builds_on = built_on(
            prompt, {node: self.cut.trainers[node] for node in self.order if node in self.cut.trainers}
        )
        self.trainer_order = _needed_first(self.builds_on, self.builds_on)
        # A training that no picture needs may be needed by what another one shows beside its report.
        self.needed_trainers = _needed_first([node for node in self.trainer_order if node in self.used], self.builds_on)
        # What is slow to have in memory: models, and trainings that could not be cut out.
        self.heavy = [
            node
            for node in self.order
            if node in self.used
            and (self.loads_model(node) or (prompt[node]["class_type"] in TRAINERS and node not in self.cut.trainers))
        ]

    def changes_model(self, node_id: str) -> bool:
        """Whether a node gives a model: it loads one, or changes one by an adapter."""
        return not MODEL_TYPES.isdisjoint(
            self.template.info[self.template.prompt[node_id]["class_type"]].get("output", ())
        )

    def loads_model(self, node_id: str) -> bool:
        """Whether a node gives a model and takes nothing from other nodes."""
        return self.changes_model(node_id) and not any(links_of(self.template.prompt[node_id]["inputs"]))

    def keys(
        self, choice: CellChoice, changed: int, position: Mapping[int, int]
    ) -> tuple[str, bytes, dict[str, PlannedTraining]]:
        """The key of the picture cell, its models, and the training cells that have to be run for it, by training node.

        changed: from which position on axes have moved. position: axis -> its place in the order of axes.
        """
        if not self.moved:
            deepest = {
                node_id: max((position[axis] for axis in axes), default=-1) for node_id, axes in self.all_axes.items()
            }
            self.moved = [
                [node_id for node_id in self.order if deepest[node_id] >= place] for place in range(len(position) + 1)
            ]
        for node_id in self.moved[changed] if self.digests else self.order:
            self.digests[node_id] = self._digest(node_id, choice)
        key = _key(b"picture", (self.digests[node_id] for node_id in self.cut.pictures))
        models = b"".join([self.digests[node] for node in self.heavy])
        if not self.cut.trainers:
            return key, models, {}
        trainings = self.trainings(choice, fresh=True)
        return key, models, {node: trainings[node] for node in self.needed_trainers}

    def trainings(self, choice: CellChoice, fresh: bool = False) -> dict[str, PlannedTraining]:
        """The training cell of each training node. fresh: the digests are those of this choice already."""
        if not fresh:
            for node_id in self.order:
                self.digests[node_id] = self._digest(node_id, choice)
        trainings: dict[str, PlannedTraining] = {}
        for node in self.trainer_order:
            parts = (self.digests[node], *sorted(self.digests[output] for output in self.cut.trainers[node]))
            training = self.trained.get(parts)
            if training is None:
                nodes = [node, *self.cut.trainers[node]]
                training = PlannedTraining(
                    _key(b"training", parts),
                    choice,
                    node,
                    tuple(trainings[other].key for other in self.builds_on[node]),
                    tuple(sorted(set().union(*(self.all_axes[each] for each in nodes)))),
                )
                self.trained[parts] = training
            trainings[node] = training
        return trainings

    def _digest(self, node_id: str, choice: CellChoice) -> bytes:
        """The hash of a node: its type, its values, and the hashes of the nodes that it is connected to."""
        cache = self.parts[node_id]
        chosen = tuple([choice[axis] for axis in self.template.direct[node_id]])
        parts = cache.get(chosen)
        if parts is None:
            parts = cache[chosen] = self._parts(node_id, choice)
        digests = self.digests
        return hashlib.sha256(
            b"".join([part if isinstance(part, bytes) else digests[part[0]] + part[1] for part in parts])
        ).digest()[:16]

    def _parts(self, node_id: str, choice: CellChoice) -> list[bytes | tuple[str, bytes]]:
        """The hashed parts of a node: bytes, and (node id, slot) for connections. Neighbouring bytes are joined."""
        node = self.template.prompt[node_id]
        parts: list[bytes | tuple[str, bytes]] = [node["class_type"].encode()]
        values = self.template.inputs(node_id, choice)
        inputs = inputs_of(self.template.info[node["class_type"]], values)
        for name, value in sorted(values.items()):
            if name in inputs and inputs[name].type in ("INT", "FLOAT"):
                with contextlib.suppress(ValueError):
                    value = converted(inputs[name], value)  # 1 and 1.0 are the same strength
            if is_link(value):
                parts += [b"\0" + name.encode() + b"\0>", (value[0], b"%d" % value[1])]
            else:
                text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
                parts.append(b"\0" + name.encode() + b"\0=" + text.encode() + self._content(node_id, name, value))
        joined: list[bytes | tuple[str, bytes]] = []
        for part in parts:
            last = joined[-1] if joined else None
            if isinstance(part, bytes) and isinstance(last, bytes):
                joined[-1] = last + part
            else:
                joined.append(part)
        return joined

    def _content(self, node_id: str, name: str, value: Any) -> bytes:
        """The digests of the files that a value names; nothing for other values."""
        digests = self.files.digests_of(self.template.info, self.template.prompt[node_id], name, value)
        return b"".join(b"\0#" + digest.encode() for digest in digests)


def _needed_first(nodes: Iterable[str], needs: Mapping[str, Iterable[str]]) -> list[str]:
    """These nodes and all that they need, each after what it needs, else in the order given. `needs` has no circle.

    graphlib's order is another one, level by level, in which all that needs nothing comes first; trainings run, and are
    recorded, in this one.
    """
    ordered: dict[str, None] = {}

    def add(node: str) -> None:
        if node not in ordered:
            for other in needs[node]:
                add(other)
            ordered[node] = None

    for node in nodes:
        add(node)
    return list(ordered)


def _key(kind: bytes, digests: Any) -> str:
    return hashlib.sha256(kind + b"".join(sorted(digests))).hexdigest()[:32]
