"""A workflow with the places in it that a plan's axes fill: which value goes where, and what a node gets then."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from .axes import LocalFile
from .conversion import ShownWidget
from .conversion.dynamic_prompts import Choose, read
from .plan import PLACEHOLDER, Plan
from .schema import DYNAMIC_COMBO, Info, converted, default_of, growing, inputs_of, is_link, is_output, near, refusal
from .workflow import NO_NAMES, Names, Prompt, bypass, mute, needed_by, reads_choices, title_of

DEEPEST = 8  # placeholders within placeholders
NodeChoice = Sequence[int]  # the index of the chosen value of each axis


@dataclass
class Slots:
    """The inputs by node and the placeholders that a value of an axis sets."""

    inputs: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    placeholders: dict[str, Any] = field(default_factory=dict)


class Template:
    """A workflow for one choice of what is muted and bypassed. Its nodes are those that its output nodes need.

    prompt: with the plan's fixed values. outputs: ids of the output nodes that are run. upload_name: what the server
    calls a file of this machine. dynamic: (node id, input) of the workflow's texts in which {a|b} is drawn; None: in
    none, nor in those of the plan.
    """

    def __init__(
        self,
        plan: Plan,
        prompt: Prompt,
        info: Info,
        switches: Mapping[str, Sequence[str]],
        upload_name: Mapping[Any, str],
        dynamic: frozenset[tuple[str, str]] | None = None,
        names: Names = NO_NAMES,
    ) -> None:
        self.plan, self.info, self.upload_name, self.dynamic = plan, info, upload_name, dynamic
        finder = Finder(prompt, info, names)
        whole = copy.deepcopy(prompt)
        bypassed, muted = (
            [node_id for name in switches.get(switch, ()) for node_id in finder.nodes(name)]
            for switch in ("bypass", "mute")
        )
        for node_id in bypassed:
            bypass(whole, node_id, info)
        self.remarks = mute(whole, [node_id for node_id in muted if node_id in whole], info)
        only = {node_id for name in plan.outputs.only for node_id in finder.outputs(name)}
        self.outputs = [
            node_id
            for node_id, node in whole.items()
            if is_output(info, node["class_type"]) and (not only or node_id in only)
        ]
        if not self.outputs:
            raise ValueError(
                "the workflow has no output node left to run: it saves and shows nothing. Add a Save "
                "Image, or look at `outputs: only`, `mute` and `bypass` in the plan."
            )
        keep = needed_by(whole, self.outputs)
        self.prompt: Prompt = {node_id: node for node_id, node in whole.items() if node_id in keep}
        self.fixed = _slots(finder, plan.fixed.items())
        self.slots = [[_slots(finder, value.targets) for value in axis.values] for axis in plan.axes]
        self._find_dependencies()

    def _find_dependencies(self) -> None:
        """Find the axes that each node's own inputs depend on, placeholders within placeholders included."""
        self.placeholder_axes: dict[str, set[int]] = {}
        inner: dict[str, set[str]] = {}
        for place, slots in [
            (None, self.fixed),
            *((axis, slots) for axis, every in enumerate(self.slots) for slots in every),
        ]:
            for name, value in slots.placeholders.items():
                axes = self.placeholder_axes.setdefault(name, set())
                if place is not None:
                    axes.add(place)
                inner.setdefault(name, set()).update(_names_in(value))
        self._inner = inner
        said: dict[str, list[str]] = {}  # the values of each placeholder
        for slots in (self.fixed, *(slots for every in self.slots for slots in every)):
            for name, value in slots.placeholders.items():
                said.setdefault(name, []).append(str(value))
        used: set[str] = set()
        self.direct: dict[str, tuple[int, ...]] = {}
        for node_id, node in self.prompt.items():
            axes_here: set[int] = set()
            texts = list(node["inputs"].values())
            texts += [value for _, value in self.fixed.inputs.get(node_id, ())]
            for axis, every in enumerate(self.slots):
                for slots in every:
                    if node_id in slots.inputs:
                        axes_here.add(axis)
                        texts += [value for _, value in slots.inputs[node_id]]
            names = self._closure(set().union(*(_names_in(text) for text in texts)) if texts else set())
            used |= names
            for name in names:
                axes_here |= self.placeholder_axes.get(name, set())
            if self.dynamic is not None and any(reads_choices(self.info, node, name) for name in node["inputs"]):
                written = "".join([*map(str, texts), *(text for name in names for text in said.get(name, ()))])
                if "{" in written and "|" in written:
                    axes_here = set(range(len(self.plan.axes)))  # what is drawn there is the cell's own
            self.direct[node_id] = tuple(sorted(axes_here))
        self.used_placeholders = used

    def _closure(self, names: set[str]) -> set[str]:
        reached: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self._inner.get(name, ())
        return reached

    def inputs(self, node_id: str, choice: NodeChoice) -> dict[str, Any]:
        """The values of a node for this choice, in the types of its inputs, connections included.

        Raises ValueError that names node, input and value for what the node would refuse.
        """
        node = self.prompt[node_id]
        node_info = self.info[node["class_type"]]
        values = dict(node["inputs"])
        assigned = list(self.fixed.inputs.get(node_id, ()))
        placeholders = dict(self.fixed.placeholders)
        for axis, index in enumerate(choice):
            slots = self.slots[axis][index]
            assigned += slots.inputs.get(node_id, ())
            if slots.placeholders:
                placeholders.update(slots.placeholders)
        set_here = {name for name, _ in assigned}
        for name, value in assigned:
            values[name] = value
        changed = set(set_here)
        for name, value in values.items():
            if isinstance(value, str) and "%" in value:
                filled = _filled(value, placeholders)
                if filled is not value:
                    values[name] = filled
                    changed.add(name)
        if not changed:
            return self._with_choices(node_id, values, changed, choice)
        inputs = inputs_of(node_info, values)
        for combo in [name for name in changed if name in inputs and inputs[name].type == DYNAMIC_COMBO]:
            # Another option has other inputs below it.
            values = {
                name: value
                for name, value in values.items()
                if not name.startswith(f"{combo}.") or name in inputs or is_link(value)
            }
            for name, item in inputs.items():
                if name.startswith(f"{combo}.") and name not in values and item.required:
                    values[name] = default_of(item)
        for name in changed:
            if name in values:
                values[name] = self._taken(node_id, name, values[name], inputs)
        return self._with_choices(node_id, values, changed, choice)

    def _with_choices(
        self, node_id: str, values: dict[str, Any], changed: set[str], choice: NodeChoice
    ) -> dict[str, Any]:
        """The values with comments and {a|b} in texts read, as the page reads them, if the plan has a `choice_seed`.

        One option is drawn from that seed, the text, and all that the axes set in the cell, so the same for the same
        cell of any later plan.
        """
        if self.dynamic is None:
            return values
        node = {**self.prompt[node_id], "inputs": values}
        for name, value in values.items():
            if isinstance(value, str) and (
                (node_id, name) in self.dynamic or (name in changed and reads_choices(self.info, node, name))
            ):
                values = {**values, name: read(value, self._draws(f"{name}\0{value}", choice))}
        return values

    def _draws(self, place: str, choice: NodeChoice) -> Choose:
        count = 0

        def draw(options: Sequence[str]) -> str:
            nonlocal count
            count += 1
            text = json.dumps([self.plan.choice_seed, place, count, self._set_by(choice)], sort_keys=True)
            return options[int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % len(options)]

        return draw

    def _plain(self, value: Any) -> Any:
        """A value as it is told apart: 1.0 is 1, and a file is its content."""
        if isinstance(value, LocalFile):
            return self.upload_name[value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _set_by(self, choice: NodeChoice) -> list[str]:
        """What the values of the axes set and switch in a cell, whatever axes and values are called."""
        values = [axis.values[index] for axis, index in zip(self.plan.axes, choice)]
        absent = {name for value in values for name in value.without}
        words = set()
        for axis, value in zip(self.plan.axes, values):
            if axis.name not in absent:
                words |= {f"{target}={self._plain(given)}" for target, given in value.targets}
                words |= {f"mute {name}" for name in value.mute} | {f"bypass {name}" for name in value.bypass}
        return sorted(words)

    def _taken(self, node_id: str, name: str, value: Any, inputs: Mapping[str, Any]) -> Any:
        """A value as the node takes it. An input that the chosen option of a dynamic combo has not is passed on."""
        if isinstance(value, LocalFile):
            return self.upload_name[value]
        if name not in inputs:
            return value
        try:
            value = converted(inputs[name], value)
            wrong = refusal(inputs[name], value)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise ValueError(f"{title_of(self.prompt, node_id, self.info)} ({node_id}): `{name}` {wrong}.")
        return value

    def resolved(self, choice: NodeChoice) -> Prompt:
        """The whole workflow for this choice."""
        return {node_id: {**node, "inputs": self.inputs(node_id, choice)} for node_id, node in self.prompt.items()}


def _names_in(value: Any) -> set[str]:
    return set(PLACEHOLDER.findall(value)) if isinstance(value, str) else set()


def _filled(text: str, placeholders: Mapping[str, Any]) -> Any:
    """A text with its placeholders filled; the value itself where the text is nothing but one placeholder."""
    for _ in range(DEEPEST):
        whole = PLACEHOLDER.fullmatch(text)
        if whole and whole[1] in placeholders:
            value = placeholders[whole[1]]
            if not isinstance(value, str):
                return value
            text = value
            continue
        filled = PLACEHOLDER.sub(lambda match: _text(placeholders.get(match[1], match[0])), text)
        if filled == text:
            break
        text = filled
    return text


def _text(value: Any) -> str:
    if isinstance(value, LocalFile):
        return PurePath(value.path).name
    return str(value).lower() if isinstance(value, bool) else str(value)


def _slots(finder: Finder, targets: Any) -> Slots:
    slots = Slots()
    for target, value in targets:
        placeholder = PLACEHOLDER.fullmatch(target)
        if placeholder:
            slots.placeholders[placeholder[1]] = value
        else:
            for node_id, name in finder.inputs(target):
                slots.inputs.setdefault(node_id, []).append((name, value))
    return slots


class Finder:
    """Finds nodes and inputs by the names that people write."""

    def __init__(self, prompt: Prompt, info: Info, names: Names = NO_NAMES) -> None:
        self.prompt, self.info = prompt, info
        self.titles: dict[str, list[str]] = {}
        for node_id in prompt:
            self.titles.setdefault(title_of(prompt, node_id, info), []).append(node_id)
        for node_id, path in names.paths.items():
            self.titles.setdefault(path, []).append(node_id)
        # The widgets of subgraphs and primitives, by those nodes' titles, paths and ids.
        self.shown: dict[str, dict[str, list[ShownWidget]]] = {}
        for each in names.shown:
            for name in dict.fromkeys((each.title, each.path, each.id)):
                self.shown.setdefault(name, {}).setdefault(each.name, []).append(each)

    def nodes(self, name: str) -> list[str]:
        """The nodes of that id or title. Raises ValueError with the near titles."""
        node_ids = [name] if name in self.prompt else self.titles.get(name, [])
        if not node_ids:
            raise ValueError(f"the workflow has no node {name!r}; {near(name, self.titles)}.")
        return node_ids

    def node(self, name: str) -> str:
        """The one node of that id or title."""
        node_ids = self.nodes(name)
        if len(node_ids) > 1:
            raise self._several(name, node_ids)
        return node_ids[0]

    def _several(self, name: str, node_ids: Sequence[str]) -> ValueError:
        return ValueError(
            f"{len(node_ids)} nodes are called {name!r}: write an id instead ({', '.join(node_ids)}), or give them "
            "titles of their own in ComfyUI."
        )

    def outputs(self, name: str) -> list[str]:
        """The output nodes of that id or title."""
        node_ids = self.nodes(name)
        for node_id in node_ids:
            kind = self.prompt[node_id]["class_type"]
            if not is_output(self.info, kind):
                outputs = [
                    title
                    for title, ids in self.titles.items()
                    if any(is_output(self.info, self.prompt[each]["class_type"]) for each in ids)
                ]
                raise ValueError(
                    f"`outputs` names {name!r}, a node ({kind}) that is no output node; {near(name, outputs)}."
                )
        return node_ids

    def inputs(self, target: str) -> list[tuple[str, str]]:
        """The (node id, input name) of "Title.input" or "id.input"; both may hold dots.

        Of a widget that a subgraph or a primitive shows, those of all that get its value.
        Raises ValueError with the near nodes or inputs.
        """
        parts = target.split(".")
        splits = [(".".join(parts[:at]), ".".join(parts[at:])) for at in range(1, len(parts))]
        named = [(name, tail) for name, tail in splits if self._is_node(name) or name in self.shown]
        if not named:
            hint = near(splits[0][0] if splits else target, [*self.titles, *self.shown])
            raise ValueError(
                f'{target!r} names no node of the workflow; {hint}. Write "Title.input", "id.input" or "%placeholder%".'
            )
        for name, tail in named:
            shown = self.shown.get(name, {}).get(tail, [])
            if len(shown) > 1 or (shown and self._is_node(name)):
                raise self._several(name, [*(each.id for each in shown), *self.titles.get(name, ())])
            if shown:
                return shown[0].inputs
            if self._is_node(name):
                node_id = self.node(name)
                if self._has(node_id, tail):
                    return [(node_id, tail)]
        name, tail = named[-1]
        if not self._is_node(name):
            raise ValueError(f"{name!r} shows no widget {tail!r}; {near(tail, self.shown[name])}.")
        node_id = self.node(name)
        raise ValueError(
            f"the node {name!r} ({self.prompt[node_id]['class_type']}) has no input {tail!r}; "
            f"{near(tail, self._names(node_id))}."
        )

    def _is_node(self, name: str) -> bool:
        return name in self.prompt or name in self.titles

    def _has(self, node_id: str, name: str) -> bool:
        if name in self._names(node_id):
            return True
        node = self.prompt[node_id]
        inputs = inputs_of(self.info[node["class_type"]], node["inputs"])
        return any(growing(item) and name.startswith(f"{item.name}.") for item in inputs.values())

    def _names(self, node_id: str) -> list[str]:
        """All inputs that the node has under any option of its dynamic combos."""
        node = self.prompt[node_id]
        node_info = self.info[node["class_type"]]
        names = dict.fromkeys(node["inputs"])
        names.update(dict.fromkeys(_all_names(node_info, {})))
        return list(names)


def _all_names(node_info: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """The names of the inputs under every option of every dynamic combo."""
    inputs = inputs_of(node_info, values)
    names = list(inputs)
    for item in inputs.values():
        if item.type == DYNAMIC_COMBO and item.name not in values:
            for choice in item.choices or ():
                names += [name for name in _all_names(node_info, {**values, item.name: choice}) if name not in names]
    return names
