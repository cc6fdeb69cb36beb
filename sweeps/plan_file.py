"""The form of a plan's YAML file, as pydantic models, and the error messages for a file that has another.

An error names the place in the plan, what is wrong there, and what to write. The text of a validator's ValueError goes
on where the name of its place ends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from .schema import near

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SOURCES = ("values", "range", "seeds", "csv", "files", "folders")


def words(value: Any) -> list[Any]:
    """A list as it is, a single value as a list of one, nothing as an empty one."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, Mapping)):
        raise ValueError(f"is set to {value!r}; write a plain value.")
    return value


def _number(value: Any) -> int | float:
    """A number of the plan; YAML takes 1e-4 for a word."""
    try:
        number = float(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not math.isfinite(number):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"is {value!r}: write a number.") from None
    return number


def _axes(value: Any) -> Any:
    """The name of an axis, or a list of names, as it is."""
    if not all(isinstance(name, str) for name in words(value)):
        raise ValueError(f"is {value!r}: write a name, or a list of names.")
    return value


def _pattern(value: Any) -> re.Pattern[str]:
    try:
        return re.compile(str(value))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression ({error}).") from error


def _not_empty(rule: dict[str, Any]) -> dict[str, Any]:
    if not rule:
        raise ValueError("is empty: it would exclude everything.")
    return rule


def _kind(value: Any) -> str | None:
    """The form that a value has: the name of its Tag."""
    if isinstance(value, list):
        return "<list>"
    if isinstance(value, (Mapping, BaseModel)):
        return "<mapping>"
    return "<plain>"


PlanText = Annotated[str, BeforeValidator(lambda value: str(_plain(value)))]
_Words = Annotated[tuple[PlanText, ...], BeforeValidator(words)]
Plain = Annotated[Any, BeforeValidator(_plain)]
Finite = Annotated[Any, BeforeValidator(_number)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Axes = Annotated[Any, AfterValidator(_axes)]
Rule = Annotated[dict[PlanText, _Words], AfterValidator(_not_empty)]


class PlanMapping(BaseModel):
    """A mapping of the plan. Its keys are the only ones; what is left empty is as if it were not there."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            return data
        return {str(key): value for key, value in data.items() if value is not None or str(key) not in cls.words()}

    @classmethod
    def words(cls) -> dict[str, str]:
        """The keys that it may have, and what to write there."""
        return {field.alias or name: field.description or "" for name, field in cls.model_fields.items()}


class AxisSetting(PlanMapping):
    """What one value of an axis sets and switches. Its other keys are targets, with plain values."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Plain]

    mute: _Words = ()
    bypass: _Words = ()
    without: _Words = ()


Listed = Annotated[list[Plain], Tag("<list>")]
Labelled = Annotated[
    Annotated[AxisSetting, Tag("<mapping>")] | Annotated[Plain, Tag("<plain>")] | Annotated[Plain, Tag("<list>")],
    Discriminator(_kind),
]
_Values = Annotated[Listed | Annotated[dict[PlanText, Labelled], Tag("<mapping>")], Discriminator(_kind)]
Seeds = Annotated[Listed | Annotated[int, Field(strict=True, ge=1), Tag("<plain>")], Discriminator(_kind)]


class Range(PlanMapping):
    """Numbers from `from` to `to`, both of them included."""

    start: Finite = Field(alias="from", description="write the first number, which is included")
    stop: Finite = Field(alias="to", description="write the last number, which is included")
    step: Finite = 1


class AxisPart(PlanMapping):
    """An axis: one of SOURCES, and where its values go."""

    values: _Values | None = Field(
        None, description="write a list of plain values, or a mapping of labels to what each of them sets"
    )
    range: Range | None = None
    seeds: Seeds | None = Field(
        None, description="write how many there are, a whole number from 1 on, or a list of them"
    )
    csv: PlanText | None = None
    files: _Words | None = None
    folders: _Words | None = None
    into: Any = None
    first: int = Field(0, strict=True, description="write the first seed, a whole number")
    label: PlanText | None = None
    only: dict[PlanText, _Words] = {}
    match: _Words = ()
    upload: _Words = ()

    @property
    def source(self) -> str:
        """The one of SOURCES that it has."""
        return next(name for name in SOURCES if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_source(self) -> AxisPart:
        there = [name for name in SOURCES if getattr(self, name) is not None]
        if len(there) != 1:
            raise ValueError(f"needs one of {', '.join(SOURCES)}, and has {' and '.join(there) or 'none of them'}.")
        return self


class NumberPart(PlanMapping):
    """A number that a node shows as text."""

    node: PlanText = Field(description="write the title of the node that shows the number")
    pattern: Annotated[Any, AfterValidator(_pattern)] = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class OutputsPart(PlanMapping):
    """What is stored of a cell."""

    only: _Words = ()
    previews: bool = Field(default=False, description="write true or false")
    numbers: dict[PlanText, NumberPart] = {}


class ReportPart(PlanMapping):
    """What a plan says of its report."""

    rows: Axes = None
    columns: Axes = None
    metrics: Axes = None
    picture: PlanText | None = None
    grid_rows: Axes = None
    grid_columns: Axes = None
    published: PlanText | None = None


class PlanFile(PlanMapping):
    """The whole file."""

    name: PlanText = ""
    about: PlanText = ""
    workflow: str = Field(description="name the file of a saved workflow")
    fixed: dict[PlanText, Any] = Field({}, alias="set")
    axes: dict[PlanText, AxisPart] = {}
    exclude: list[Rule] = Field([], description="write a list of rules, each of them a mapping")
    choice_seed: int | None = Field(
        None, strict=True, description="write the seed by which {a|b} in texts is drawn for each cell, a whole number"
    )
    time_limit: Seconds | None = Field(None, description="write the seconds that a cell may run, a number above 0")
    outputs: OutputsPart = Field(default_factory=lambda: OutputsPart.model_validate({}))
    report: ReportPart = Field(default_factory=lambda: ReportPart.model_validate({}))

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[\w-]{1,60}", name, re.ASCII):
            raise ValueError(f"is {name!r}: write at most 60 letters, digits, - and _.")
        return name

    @field_validator("axes", mode="before")
    @classmethod
    def _short_axes(cls, axes: Any) -> Any:
        """A list stands for the values of a placeholder of the axis' name."""
        if not isinstance(axes, Mapping):
            return axes
        return {
            name: {"values": spec, "into": f"%{name}%"} if isinstance(spec, list) else spec
            for name, spec in axes.items()
        }


def read_plan_file(data: Any) -> PlanFile:
    """The content of a plan's YAML. Raises ValueError of one sentence for the first thing that is wrong."""
    try:
        return PlanFile.model_validate(data)
    except ValidationError as error:
        # An unknown word is what the others come from: the word that is missing is there, misspelt.
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        raise ValueError(_sentence(first)) from None


def _sentence(error: ErrorDetails) -> str:
    """A pydantic error as a sentence with its place."""
    loc = [name for name in error["loc"] if name not in ("<list>", "<mapping>", "<plain>", "[key]")]
    *above, last = loc or [""]
    place, words_there = _place(loc), _words_at(above)
    if error["type"] == "extra_forbidden":
        return f"{_place(above)} has the unknown word {last!r}; {near(str(last), words_there)}."
    if error["type"] == "missing":
        return f"{f'{_place(above)}: ' if above else ''}`{last}` is missing: {words_there[str(last)]}."
    if error["type"] == "value_error":
        return f"{place} {error['ctx']['error']}"
    value = error["input"]
    if error["type"] in ("dict_type", "model_type"):
        names = ", ".join(_words_at(loc))
        return f"{place} must be a mapping {f'of {names}' if names else '(name: value)'}, not {value!r}."
    return f"{place} is {value!r}: {words_there.get(str(last)) or error['msg']}."


def _place(loc: Sequence[Any]) -> str:
    """A place in the plan in words: "the axis a: `range`: `to`"."""
    match list(loc):
        case []:
            return "the plan"
        case ["axes", name, *inner]:
            head = f"the axis {name}"
        case ["outputs", "numbers", name, *inner]:
            head = f"the number {name!r}"
        case ["exclude", int(), *inner]:
            head = "a rule of `exclude`"
        case [name, *inner]:
            head = f"`{name}`"
    return ": ".join([head, *(f"value {name + 1}" if isinstance(name, int) else f"`{name}`" for name in inner)])


def _words_at(loc: Sequence[Any]) -> dict[str, str]:
    """The keys of a place whose keys are known, and what to write there."""
    match list(loc):
        case []:
            return PlanFile.words()
        case ["axes", _]:
            return AxisPart.words()
        case ["axes", _, "range"]:
            return Range.words()
        case ["outputs"]:
            return OutputsPart.words()
        case ["outputs", "numbers", _]:
            return NumberPart.words()
        case ["report"]:
            return ReportPart.words()
    return {}
