"""What a setting of a training is beside its name and default: what is valid, and how nodes show it."""

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


@dataclass(frozen=True, kw_only=True)
class Setting:
    """words: the tooltip. later: it came after the node's first release, so its widget is optional and the last, and
    what was saved before it stays what it is. recorded: of a method's own setting, see OWN, ALWAYS and NEVER.
    """

    words: str
    at: str = MORE
    advanced: bool = False
    later: bool = False
    recorded: str = OWN

    def widget(self, name: str) -> str:
        """What the widget of the setting of this name is called."""
        return name

    def stored(self, value: Any) -> Any:
        """What the setting is where its widget has this value."""
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, with the name of the setting, for a value that is not valid."""


@dataclass(frozen=True, kw_only=True)
class Number(Setting):
    """From low to high. shown: how far the widget goes where high is infinite. start: where the widget starts, if that
    is not the default. unset: the value of the widget that stands for None.
    """

    low: float = 0
    high: float = math.inf
    shown: float | None = None
    step: float = 1
    start: float | None = None
    unset: float | None = None

    def __post_init__(self) -> None:
        """A finite range stands here once."""
        assert (self.shown is None) == math.isfinite(self.high), self.words

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a number outside of the range; None stands for a number that the method chooses."""
        if value is not None and not self.low <= value <= self.high:
            raise ValueError(f"The setting {name} must be from {self.low:g} to {self.high:g}, not {value:g}.")

    def stored(self, value: Any) -> Any:
        """The number, or None."""
        return None if self.unset is not None and value == self.unset else value


@dataclass(frozen=True, kw_only=True)
class Choice(Setting):
    """One of the options. called: in the error message, if not by its name."""

    options: Iterable[str]
    called: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for another value."""
        if value not in (options := tuple(self.options)):
            words = self.called or name.replace("_", " ")
            raise ValueError(f"Unknown {words} {value!r}: choose one of {', '.join(options)}.")


@dataclass(frozen=True, kw_only=True)
class Text(Setting):
    """Of one line or several."""

    lines: bool = False


@dataclass(frozen=True, kw_only=True)
class Switch(Setting):
    """On or off."""


@dataclass(frozen=True, kw_only=True)
class Either(Setting):
    """On or off, shown as a choice of two words by a widget of another name."""

    shown_as: str
    on: str
    off: str

    def widget(self, name: str) -> str:
        """The other name."""
        return self.shown_as

    def stored(self, value: Any) -> Any:
        """Whether the word is the one for on."""
        return bool(value == self.on)


@dataclass(frozen=True, kw_only=True)
class Seed(Setting):
    """Any whole number."""


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
    """What a field of a dataclass is as a setting; None if it is none."""
    return item.metadata.get("setting")
