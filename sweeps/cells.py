"""Cells of a plan: their keys, their order, and the prompts that a server runs for them.

A key is a hash of what is run: of each node its type, its inputs and the hashes of the nodes that it needs (a Merkle
tree, so ids do not matter); of each named file its content, models by size and header. Equal cells of any plan have
equal keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .axes import LocalFile
from .cutting import Cut, built_on, find_cut, is_embedding, picture_prompt, training_prompt
from .files import FOLDER, Files
from .plan import PLACEHOLDER, Plan
from .records import Kind
from .schema import Info, converted, inputs_of, is_link, links_of, near
from .template import Finder, Template
from .training_nodes import TRAINERS
from .workflow import NO_NAMES, Names, Prompt, needed_by, order, title_of

MODELS = {"MODEL", "CLIP", "VAE"}
MOST_CELLS = 200_000  # of a plan: each takes half a kilobyte and 40 microseconds
CellChoice = tuple[int, ...]  # the index of the chosen value of each axis, in the plan's order


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One picture cell. needs: keys of its training cells. models: equal for cells with the same models in memory."""

    key: str
    choice: CellChoice
    needs: tuple[str, ...]
    models: bytes = b""


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """One training cell. node: its training node. needs: training cells that this one builds on."""

    key: str
    choice: CellChoice
    node: str
    needs: tuple[str, ...]
    axes: tuple[int, ...]


@dataclass
class Cells:
    """All cells of a plan. pictures: in the order in which they are run, one for each combination that the plan has.

    Several combinations may have the same key: they are the same cell. trainings: by key, in order of first use.
    """

    pictures: list[PlannedCell] = field(default_factory=list)
    trainings: dict[str, PlannedTraining] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Compiler:
    """Turns a plan and a workflow into cells, and cells into prompts."""

    def __init__(
        self,
        plan: Plan,
        prompt: Prompt,
        info: Info,
        files: Files,
        embeddings: bool = False,
        dynamic: frozenset[tuple[str, str]] | None = None,
        names: Names = NO_NAMES,
    ) -> None:
        """Look up upload names and output nodes. embeddings: the servers take files of embeddings.

        dynamic: (node id, input) of the texts of the workflow in which {a|b} is drawn for each cell; None: in no text,
        those of the plan included. names: by which targets may name parts of the workflow, besides titles and ids.
        """
        self.dynamic, self.names = dynamic, names
        self.plan, self.prompt, self.info, self.files, self.embeddings = plan, prompt, info, files, embeddings
        self.upload_names = {
            target: files.upload_name(target.path)
            for axis in plan.axes
            for value in axis.values
            for _, target in value.targets
            if isinstance(target, LocalFile)
        }
        self.upload_names |= {
            value: files.upload_name(value.path) for value in plan.fixed.values() if isinstance(value, LocalFile)
        }
        self.templates: dict[tuple[tuple[str, ...], tuple[str, ...]], _Compiled] = {}
        finder = Finder(prompt, info, names)
        for number in plan.outputs.numbers:
            finder.outputs(number.node)

    def compiled(self, choice: CellChoice) -> _Compiled:
        """The workflow with what this choice mutes and bypasses."""
        values = [axis.values[index] for axis, index in zip(self.plan.axes, choice)]
        muted = tuple(name for value in values for name in value.mute)
        bypassed = tuple(name for value in values for name in value.bypass)
        if (muted, bypassed) not in self.templates:
            template = Template(
                self.plan,
                self.prompt,
                self.info,
                {"mute": muted, "bypass": bypassed},
                self.upload_names,
                self.dynamic,
                self.names,
            )
            self.templates[muted, bypassed] = _Compiled(template, self.files, self.embeddings)
        return self.templates[muted, bypassed]

    def cells(self) -> Cells:
        """All cells. Raises ValueError for the first value that a node would refuse, and for a plan without cells."""
        cells = Cells()
        shared: dict[Any, Any] = {}  # one object for all equal ones
        axes = self.axis_order()
        last: tuple[_Compiled | None, CellChoice] = (None, ())
        structural = any(value.mute or value.bypass for axis in self.plan.axes for value in axis.values)
        compiled = self.compiled((0,) * len(self.plan.axes)) if not structural else None
        position = {axis: place for place, axis in enumerate(axes)}
        for choice in self.choices(axes):
            if structural:
                compiled = self.compiled(choice)
            assert compiled is not None
            changed = 0
            if last[0] is compiled:
                changed = min(
                    (position[axis] for axis, (one, other) in enumerate(zip(last[1], choice)) if one != other),
                    default=len(axes),
                )
            key, models, trainings = compiled.keys(choice, changed, position)
            last = (compiled, choice)
            for training in trainings.values():
                cells.trainings.setdefault(training.key, training)
            needs = tuple(training.key for node, training in trainings.items() if node in compiled.used)
            cells.pictures.append(
                PlannedCell(key, choice, shared.setdefault(needs, needs), shared.setdefault(models, models))
            )
            if len(cells.pictures) > MOST_CELLS:
                raise ValueError(f"the plan has more than {MOST_CELLS:,} cells: give its axes fewer values.")
        if not cells.pictures:
            raise ValueError("the plan has no cells: `exclude`, `only` and `match` leave nothing.")
        self._check_placeholders()
        cells.remarks = list(
            dict.fromkeys(
                remark for each in self.templates.values() for remark in (*each.template.remarks, *each.cut.remarks)
            )
        )
        return cells

    def _check_placeholders(self) -> None:
        """Every placeholder that the plan sets has to stand somewhere."""
        used = set().union(*(compiled.template.used_placeholders for compiled in self.templates.values()))
        for template in (compiled.template for compiled in self.templates.values()):
            for name in [*template.placeholder_axes]:
                if name not in used:
                    there = {
                        placeholder
                        for compiled in self.templates.values()
                        for node in compiled.template.prompt.values()
                        for value in node["inputs"].values()
                        for placeholder in _names(value)
                    }
                    raise ValueError(
                        f"the placeholder %{name}% stands in no text of the workflow; "
                        f"{near(f'%{name}%', sorted(there))}."
                    )

    def axis_order(self) -> list[int]:
        """Axes from the one that varies most slowly: models, what is muted, training and adapters, texts, the rest."""
        starts = [[0] * len(self.plan.axes)]
        for index, axis in enumerate(self.plan.axes):
            if any(value.mute or value.bypass for value in axis.values):
                starts += [
                    [number if place == index else 0 for place in range(len(self.plan.axes))]
                    for number in range(len(axis.values))
                ]
        every = [self.compiled(tuple(start)) for start in starts]

        def rank(axis: int) -> int:
            values = self.plan.axes[axis].values
            touched = [
                (compiled, node)
                for compiled in every
                for node, axes in compiled.template.direct.items()
                if axis in axes
            ]
            if any(compiled.loads_model(node) for compiled, node in touched):
                return 0
            if any(value.mute or value.bypass for value in values):
                return 1
            if any(node in compiled.before_training or compiled.changes_model(node) for compiled, node in touched):
                return 2
            return 3 if any(isinstance(value, str) for each in values for _, value in each.targets) else 4

        return sorted(range(len(self.plan.axes)), key=rank)

    def choices(self, axes: list[int]) -> Iterator[CellChoice]:
        """All combinations that the plan has, the last axis of `axes` varying fastest."""
        choice = [0] * len(self.plan.axes)
        rules = self._rules(axes)

        def descend(depth: int) -> Iterator[CellChoice]:
            if depth == len(axes):
                yield tuple(choice)
                return
            axis = axes[depth]
            for index in range(len(self.plan.axes[axis].values)):
                choice[axis] = index
                if all(rule(choice) for rule in rules[depth]):
                    yield from descend(depth + 1)

        return descend(0)

    def _rules(self, axes: list[int]) -> list[list[Any]]:
        """The rules of each depth: those that can be judged as soon as that axis has its value."""
        rules: list[list[Any]] = [[] for _ in axes]
        position = {axis: depth for depth, axis in enumerate(axes)}
        owners: dict[str, list[int]] = {}
        for index, axis in enumerate(self.plan.axes):
            owners.setdefault(axis.name, []).append(index)
            for fact in axis.facts:
                owners.setdefault(fact, []).append(index)
        for rule in self.plan.exclude:
            involved = [(index, name, allowed) for name, allowed in rule.items() for index in owners[name]]
            tables = [
                (index, [_meets(self.plan.axes[index], value, name, allowed) for value in self.plan.axes[index].values])
                for index, name, allowed in involved
            ]
            depth = max(position[index] for index, _ in tables)
            # A name that several axes have as a column is met if one of them meets it.
            names: dict[str, list[tuple[int, list[bool]]]] = {}
            for (_, name, _), table in zip(involved, tables):
                names.setdefault(name, []).append(table)
            rules[depth].append(
                lambda choice, names=names: not all(
                    any(table[choice[index]] for index, table in each) for each in names.values()
                )
            )
        for index, axis in enumerate(self.plan.axes):
            for other, name in enumerate(each.name for each in self.plan.axes):
                alone = [name in value.without for value in axis.values]
                if any(alone):
                    rules[max(position[index], position[other])].append(
                        lambda choice, one=index, two=other, alone=alone: not (alone[choice[one]] and choice[two])
                    )
            for column in axis.match:
                for other in range(index):
                    if column in self.plan.axes[other].facts:
                        here = [value.facts.get(column) for value in axis.values]
                        there = [value.facts.get(column) for value in self.plan.axes[other].values]
                        depth = max(position[index], position[other])
                        rules[depth].append(
                            lambda choice, one=index, two=other, here=here, there=there: here[choice[one]]
                            == there[choice[two]]
                        )
        return rules

    def labels(self, choice: CellChoice, axes: tuple[int, ...] | None = None) -> dict[str, str]:
        """Axis -> label of its value, of all axes or of these, without those that mean nothing here."""
        values = [axis.values[index] for axis, index in zip(self.plan.axes, choice)]
        absent = {name for value in values if value.without for name in value.without}
        return {
            axis.name: value.label
            for index, (axis, value) in enumerate(zip(self.plan.axes, values))
            if (axes is None or index in axes) and axis.name not in absent
        }

    def labels_of(self, cell: PlannedCell | PlannedTraining) -> dict[str, str]:
        """The labels of a cell: of a training, those of the axes that it depends on."""
        return self.labels(cell.choice, cell.axes if isinstance(cell, PlannedTraining) else None)

    def whole(self, choice: CellChoice) -> Prompt:
        """The whole workflow of a cell, as a person would run it."""
        return self.compiled(choice).template.resolved(choice)

    def uploads(self, choice: CellChoice) -> dict[str, Any]:
        """The files of this machine that the cell needs, by the names that the server has for them."""
        values = [value for axis, index in zip(self.plan.axes, choice) for _, value in axis.values[index].targets]
        values += list(self.plan.fixed.values())
        return {self.upload_names[value]: value.path for value in values if isinstance(value, LocalFile)}

    def prompt_of(self, cell: PlannedCell | PlannedTraining) -> Prompt:
        """The prompt that the server runs for a cell: adapters of other cells come from files."""
        compiled = self.compiled(cell.choice)
        trained = compiled.trainings(cell.choice)
        adapters = {node: adapter_name(training.key) for node, training in trained.items()}
        whole = self.whole(cell.choice)
        if isinstance(cell, PlannedTraining):
            return training_prompt(whole, cell.node, compiled.cut.trainers[cell.node], adapters, cell.key, self.info)
        return picture_prompt(whole, compiled.cut.pictures, adapters, self.info)

    def titles(self, prompt: Prompt) -> dict[str, str]:
        """The titles of a prompt's nodes, by id."""
        return {node_id: title_of(prompt, node_id, self.info) for node_id in prompt}

    def is_embedding(self, training: PlannedTraining) -> bool:
        """Whether a training cell gives an embedding, not an adapter."""
        return is_embedding(self.prompt[training.node])

    def kind_of(self, cell: PlannedCell | PlannedTraining) -> Kind:
        """The kind of a cell: training cells train, all others make pictures."""
        return "training" if isinstance(cell, PlannedTraining) else "picture"


class _Compiled:
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
        return not MODELS.isdisjoint(self.template.info[self.template.prompt[node_id]["class_type"]].get("output", ()))

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
    """These nodes and all that they need, each after what it needs, else in the order given. `needs` has no circle."""
    ordered: dict[str, None] = {}

    def add(node: str) -> None:
        if node not in ordered:
            for other in needs[node]:
                add(other)
            ordered[node] = None

    for node in nodes:
        add(node)
    return list(ordered)


def adapter_name(key: str) -> str:
    """The name that loaders have for the adapter of a training cell, below the loras folder."""
    return f"{FOLDER}/{key}.safetensors"


def _key(kind: bytes, digests: Any) -> str:
    return hashlib.sha256(kind + b"".join(sorted(digests))).hexdigest()[:32]


def _meets(axis: Any, value: Any, name: str, allowed: frozenset[str]) -> bool:
    """Whether a value of an axis meets one condition of a rule: by its label, what it sets, or a column."""
    if name == axis.name:
        return value.label in allowed or (len(value.targets) == 1 and str(value.targets[0][1]) in allowed)
    return value.facts.get(name) in allowed


def _names(value: Any) -> list[str]:
    return [f"%{name}%" for name in PLACEHOLDER.findall(value)] if isinstance(value, str) else []
