"""The JSON file beside a scorer's weights, read by its fields: what passes here can be built, or is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .preprocessing import Preprocess

_LARGEST_FILE = 1 << 20  # bytes
_LARGEST_SIDE = 2048  # pixels, to which every picture is resized
_COUNTS = ("depth", "layers")  # of blocks: each has tensors of its own


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, its message beginning with the file's name, for anything else."""
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} is larger than any settings of a scorer: put the right file there.")
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): repair it, or download it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}.")
    return value


class Fields:
    """An object of the file, with getters that name the file and the field in their error messages."""

    def __init__(self, path: Path, values: Mapping[str, Any], place: str = "") -> None:
        self.path, self.values, self.place = path, values, place

    def wrong(self, name: str, needed: str) -> ValueError:
        """The error for a field."""
        return ValueError(f"{self.path}: {self.place}{name} must be {needed}.")

    def inner(self, name: str) -> Fields:
        """An object within it."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(self.path, value, f"{self.place}{name}.")

    def text(self, name: str) -> str:
        """A text."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.wrong(name, "a text")
        return value

    def side(self, name: str) -> int:
        """A number of pixels."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_SIDE:
            raise self.wrong(name, f"a whole number from 1 to {_LARGEST_SIDE}")
        return value

    def colours(self, name: str, least: float = -math.inf) -> tuple[float, float, float]:
        """A number for each of red, green and blue, more than `least`."""
        values = self.values.get(name)
        if not isinstance(values, list) or len(values) != 3 or not all(_is_number(value, least) for value in values):
            raise self.wrong(name, "three numbers" if least < 0 else "three positive numbers")
        red, green, blue = values
        return red, green, blue

    def checks(self) -> tuple[dict[str, Any], ...]:
        """The checks of `verify`: numbers that right weights give."""
        values = self.values.get("checks", [])
        if not isinstance(values, list) or not all(_is_check(value) for value in values):
            raise self.wrong("checks", 'objects with "features", "source" and either "pixels" or "text"')
        return tuple(values)

    def architecture(self, name: str) -> str | dict[str, Any]:
        """The name of a model, or its arguments."""
        value = self.values.get(name)
        if not isinstance(value, (str, dict)) or not value:
            raise self.wrong(name, "the name of a model, or an object of its arguments")
        return value

    def preprocess(self) -> Preprocess:
        """The preprocessing of pictures."""
        inner = self.inner("preprocess")
        return Preprocess(
            inner.side("resize"), inner.side("crop"), inner.colours("mean"), inner.colours("std", least=1e-6)
        )


def check_bounds(architecture: Any, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check the numbers of an architecture against the weights that shall fill it, before anything of it is made.

    Raises ValueError, its message beginning with the file's name, for sizes that these weights cannot have.
    """
    values = sum(tensor.numel() for tensor in state.values())

    def check(value: Any, name: str, depth: int) -> None:
        if isinstance(value, dict) and depth:
            for key, inner in value.items():
                check(inner, str(key), depth - 1)
        elif isinstance(value, list) and depth and len(value) <= 16:
            for inner in value:
                check(inner, name, depth - 1)
        elif isinstance(value, bool) or value is None or isinstance(value, str):
            return
        elif not isinstance(value, (int, float)) or value != value:
            raise ValueError(f"{path}: {name} is not a valid value.")
        elif abs(value) > (len(state) if name in _COUNTS else values):
            raise ValueError(f"{path}: {name} = {str(value)[:40]} is more than the weights beside it have.")

    check(architecture, "it", 4)


def _is_number(value: Any, least: float = -math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least < value < 1e6


def _is_check(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("source"), str)
        and isinstance(value.get("features"), list)
        and all(_is_number(number) for number in value["features"])
        and (isinstance(value.get("text"), str) or ("text" not in value and _is_number(value.get("pixels"))))
    )
