"""The settings of a training beside their names and defaults: valid values, and widgets of nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

# Where a setting has its widget: at the training node, with a method there, or at Training Settings.
TRAINING, WITH_METHOD, MORE = "training", "method", "more"
# Whether a method's own setting is in the record that a run is known by: with the method, in the runs of all methods
# (those that were settings of every run once), or not, because it does not change the result.
OWN, ALWAYS, NEVER = "own", "always", "never"
# Of files' names. Windows has no such letters, and opens a device for such names; file systems take 255 bytes, and
# suffixes and temporary names are added.
_NOT_IN_NAMES = '/\\:*?"<>|'
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
_LONGEST_STEM = 200


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of a training.

    words: the tooltip. later: it came after the node's first release, so its widget is optional and the last, and what
    was saved before it stays what it is. recorded: of a method's own setting, see OWN, ALWAYS and NEVER.
    """

    words: str
    at: str = MORE
    advanced: bool = False
    later: bool = False
    recorded: str = OWN

    def widget(self, name: str) -> str:
        """The name of the widget of the setting of this name."""
        return name

    def stored(self, value: Any) -> Any:
        """The setting's value where its widget has this value."""
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, with the name of the setting, for a value that is not valid."""


@dataclass(frozen=True, kw_only=True)
class Number(Setting):
    """A number from low to high. shown: how far the widget goes where high is infinite. start: its first value, if that
    is not the default. unset: the value of the widget that stands for None.
    """

    low: float = 0
    high: float = math.inf
    shown: float | None = None
    step: float = 1
    start: float | None = None
    unset: float | None = None

    def __post_init__(self) -> None:
        """Check that `shown` is given only where `high` is infinite."""
        assert (self.shown is None) == math.isfinite(self.high), self.words

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a number outside of the range; None stands for a number that the method chooses."""
        if value is not None and not self.low <= value <= self.high:
            raise ValueError(f"The setting {name} must be from {self.low:g} to {self.high:g}, not {value:g}.")

    def stored(self, value: Any) -> Any:
        """The number, or None for the widget's value that stands for it."""
        return None if self.unset is not None and value == self.unset else value


@dataclass(frozen=True, kw_only=True)
class Choice(Setting):
    """A choice among options. called: its name in the error message, if that is another."""

    options: Iterable[str]
    called: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a value that is not among the options."""
        if value not in (options := tuple(self.options)):
            words = self.called or name.replace("_", " ")
            raise ValueError(f"Unknown {words} {value!r}: choose one of {', '.join(options)}.")


@dataclass(frozen=True, kw_only=True)
class Text(Setting):
    """A text of one line or several."""

    lines: bool = False


@dataclass(frozen=True, kw_only=True)
class FileName(Text):
    """The name of a file in a folder that is given, with or without its suffix; empty for no file."""

    suffix: str

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a name that leads to another folder, is hidden, or is none on every system."""
        stem = self.stored(value)
        if stem and (
            stem[0] == "."
            or stem[-1] == "."
            or len(stem.encode()) > _LONGEST_STEM
            or any(letter in _NOT_IN_NAMES or not letter.isprintable() for letter in stem)
            or stem.partition(".")[0].rstrip().upper() in _DEVICES
        ):
            raise ValueError(
                f"The setting {name} must be a file's name without a folder, such as my_dog, not {value!r}: no dot at "
                f"its start or end and none of {' '.join(_NOT_IN_NAMES)}"
            )

    def stored(self, value: Any) -> Any:
        """The name without blanks around it and without suffix."""
        return value.strip().removesuffix(self.suffix).strip()


@dataclass(frozen=True, kw_only=True)
class Switch(Setting):
    """A switch, on or off."""


@dataclass(frozen=True, kw_only=True)
class Either(Setting):
    """A switch, on or off, shown as a choice of two words by a widget of another name."""

    shown_as: str
    on: str
    off: str

    def widget(self, name: str) -> str:
        """The widget's own name, which is not the setting's."""
        return self.shown_as

    def stored(self, value: Any) -> Any:
        """Whether the word is the one for on."""
        return bool(value == self.on)


@dataclass(frozen=True, kw_only=True)
class Seed(Setting):
    """A seed, any whole number. It stays from run to run, so that the same training goes on after a stop."""


def entry(setting: Setting, default: Any = MISSING) -> Any:
    """The field of a dataclass that is this setting."""
    return field(default=default, metadata={"setting": setting})


def described(record: Any) -> dict[str, tuple[Setting, Any]]:
    """The settings of a dataclass or its instance by name, each with its default; MISSING where there is none.

    In the order of the dataclass, which is that of the widgets, but those that came later last.
    """
    pairs = [(item, setting) for item in fields(record) if (setting := setting_of(item)) is not None]
    return {item.name: (setting, item.default) for item, setting in sorted(pairs, key=lambda pair: pair[1].later)}


def setting_of(item: Field[Any]) -> Setting | None:
    """The setting that a field of a dataclass is; None if it is none."""
    return item.metadata.get("setting")
