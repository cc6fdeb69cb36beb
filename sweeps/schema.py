"""The schema of a ComfyUI server's nodes (`/object_info`): inputs, their types and limits, outputs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Info = Mapping[str, Any]  # class type -> what /object_info says of it
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
# Inputs of these types take any dotted name below their own: what is connected decides how many there are.
GROWING = ("COMFY_AUTOGROW_V3", "COMFY_DYNAMICSLOT_V3")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO)


@dataclass(frozen=True)
class Input:
    """One input of a node. type: ComfyUI's name; a combo of the older kind, a plain list, is COMBO as well."""

    name: str
    type: str
    options: Mapping[str, Any]
    required: bool

    @property
    def choices(self) -> list[Any] | None:
        """The options of a combo; None for other types and for combos that the front end fills."""
        if self.type == DYNAMIC_COMBO:
            return [option["key"] for option in self.options.get("options", ())]
        values = self.options.get("options")
        return list(values) if self.type == "COMBO" and isinstance(values, (list, tuple)) else None

    @property
    def uploads(self) -> bool:
        """Whether the widget offers to upload a file: its choices are files of the input folder."""
        return any(name.endswith("_upload") and value for name, value in self.options.items())


def inputs_of(node: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Input]:
    """The inputs of a node with these values: of a dynamic combo, those of the option that the values choose."""
    inputs: dict[str, Input] = {}
    _collect(node.get("input", {}), "", values, inputs)
    return inputs


def _collect(groups: Mapping[str, Any], prefix: str, values: Mapping[str, Any], inputs: dict[str, Input]) -> None:
    for group in ("required", "optional"):
        for name, spec in (groups.get(group) or {}).items():
            item = _input(prefix + name, spec, group == "required")
            inputs[item.name] = item
            if item.type == DYNAMIC_COMBO:
                choice = values.get(item.name)
                for option in item.options.get("options", ()):
                    if option["key"] == choice:
                        _collect(option.get("inputs") or {}, f"{item.name}.", values, inputs)


def _input(name: str, spec: Any, required: bool) -> Input:
    kind, *more = spec if isinstance(spec, (list, tuple)) else (spec,)
    options = more[0] if more and isinstance(more[0], Mapping) else {}
    if isinstance(kind, (list, tuple)):
        return Input(name, "COMBO", {**options, "options": list(kind)}, required)
    return Input(name, str(kind), options, required)


def default_of(item: Input) -> Any:
    """The value that the front end would give; None if there is none."""
    if "default" in item.options:
        return item.options["default"]
    choices = item.choices
    return choices[0] if choices else {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(item.type)


def is_output(info: Info, class_type: str) -> bool:
    """Whether ComfyUI runs a node of this type for its own sake."""
    return bool(info[class_type].get("output_node"))


def converted(item: Input, value: Any) -> Any:
    """The value in the type of the input, as numbers and words of a CSV have to be.

    Raises ValueError that says what the input takes.
    """
    try:
        if item.type == "INT" and not isinstance(value, bool):
            number = float(value) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else int(value)
            if number != value and not isinstance(value, str) or number != int(number):
                raise ValueError
            return int(number)
        if item.type == "FLOAT" and not isinstance(value, bool):
            if not math.isfinite(float(value)):
                raise ValueError
            return float(value)
        if item.type == "BOOLEAN" and not isinstance(value, bool):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).strip().lower()]
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ValueError(f"takes {_TYPES[item.type]}, not {value!r}") from None
    if item.type in ("INT", "FLOAT"):
        raise ValueError(f"takes {_TYPES[item.type]}, not {value!r}")
    choices = item.choices
    if choices is not None and value not in choices:
        same = [choice for choice in choices if str(choice) == str(value)]  # 4 and "4"
        return same[0] if len(same) == 1 else value
    if item.type == "STRING" and isinstance(value, (int, float, bool)):
        return str(value)
    return value


_TYPES = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}


def refusal(item: Input, value: Any) -> str:
    """The reason why ComfyUI would refuse a converted value; "" if it takes it."""
    if item.type in ("INT", "FLOAT"):
        low, high = item.options.get("min"), item.options.get("max")
        if low is not None and value < low:
            return f"is {value}, but the minimum is {low}"
        if high is not None and value > high:
            return f"is {value}, but the maximum is {high}"
    choices = item.choices
    if choices is not None and value not in choices and not item.options.get("multiselect"):
        # A file in a folder below the input folder is no choice, but is taken.
        if item.uploads and isinstance(value, str) and ("/" in value or value.endswith("]")):
            return ""
        return f"is {value!r}, which is not a choice; {near(str(value), map(str, choices))}"
    if item.type not in _WIDGETS and item.type != "*" and not isinstance(value, (list, Mapping)):
        return f"is {value!r}, but a socket of type {item.type} takes a connection only"
    return ""


def near(name: str, names: Iterable[str], limit: int = 6) -> str:
    """The names that look like this one, or else the first ones there are, as "near: a, b"."""
    available = list(dict.fromkeys(names))
    folded: dict[str, str] = {}
    for candidate in available:
        folded.setdefault(candidate.lower(), candidate)
    close = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, limit, 0.5)]
    close += [candidate for candidate in available if name.lower() in candidate.lower() and candidate not in close]
    if close:
        return f"near: {', '.join(close[:limit])}"
    more = ", ..." if len(available) > limit else ""
    return f"there are: {', '.join(available[:limit])}{more}" if available else "there are none"


def growing(item: Input) -> bool:
    """Whether inputs below this one's name come and go."""
    return item.type in GROWING


def is_link(value: Any) -> bool:
    """Whether an input is connected to another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def links_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The (input, node id, slot) of all connected inputs."""
    for name, value in inputs.items():
        if is_link(value):
            yield name, value[0], value[1]
