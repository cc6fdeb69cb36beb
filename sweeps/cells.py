"""Cells of a plan: which there are, in which order they run, and the prompts that a server runs for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .axes import LocalFile
from .cutting import is_embedding, picture_prompt, training_prompt
from .files import Files
from .keys import KeyedTemplate
from .plan import PLACEHOLDER, Plan
from .planned import CellChoice, Cells, PlannedCell, PlannedTraining, adapter_name
from .records import Kind
from .schema import Info, near
from .template import Finder, Template
from .workflow import NO_NAMES, Names, Prompt, title_of

MOST_CELLS = 200_000  # of a plan: each takes half a kilobyte and 40 microseconds


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
        self.templates: dict[tuple[tuple[str, ...], tuple[str, ...]], KeyedTemplate] = {}
        finder = Finder(prompt, info, names)
        for number in plan.outputs.numbers:
            finder.outputs(number.node)

    def compiled(self, choice: CellChoice) -> KeyedTemplate:
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
            self.templates[muted, bypassed] = KeyedTemplate(template, self.files, self.embeddings)
        return self.templates[muted, bypassed]

    def cells(self) -> Cells:
        """All cells. Raises ValueError for the first value that a node would refuse, and for a plan without cells."""
        cells = Cells()
        shared: dict[Any, Any] = {}  # one object for all equal ones
        axes = self.axis_order()
        last: tuple[KeyedTemplate | None, CellChoice] = (None, ())
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


def _meets(axis: Any, value: Any, name: str, allowed: frozenset[str]) -> bool:
    """Whether a value of an axis meets one condition of a rule: by its label, what it sets, or a column."""
    if name == axis.name:
        return value.label in allowed or (len(value.targets) == 1 and str(value.targets[0][1]) in allowed)
    return value.facts.get(name) in allowed


def _names(value: Any) -> list[str]:
    return [f"%{name}%" for name in PLACEHOLDER.findall(value)] if isinstance(value, str) else []
