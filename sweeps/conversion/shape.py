"""The shape of a workflow in UI form: what the conversion takes for granted of a file.

Only the parts that are read are named; everything else in a file is let through as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from .errors import NotConvertible

Id = int | str
_Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
_Slot = Annotated[int, Field(ge=0, le=2**53)]


class _Input(BaseModel):
    name: str | None = None
    link: _Whole | None = None
    widget: dict[str, Any] | None = None
    linkIds: list[_Whole] | None = None


class _Output(BaseModel):
    name: str | None = None
    links: list[_Whole] | None = None
    linkIds: list[_Whole] | None = None


class _Node(BaseModel):
    id: Id
    type: Id
    title: str | None = None
    mode: _Whole | None = None
    inputs: list[_Input] | None = None
    outputs: list[_Output] | None = None
    properties: dict[str, Any] | None = None
    widgets_values: list[Any] | dict[str, Any] | None = None


class _Link(BaseModel):
    id: _Whole
    origin_id: Id
    origin_slot: _Slot
    target_id: Id
    target_slot: _Slot


def _five(link: list[Any]) -> list[Any]:
    """The older form: id, origin, its slot, target, its slot, and the type."""
    _Link.model_validate(dict(zip(_Link.model_fields, link)))
    return link


Tuple = Annotated[list[Any], AfterValidator(_five)]


class _Graph(BaseModel):
    nodes: list[_Node]
    links: list[_Link | Tuple | None] | None = None


class _Frame(_Input):
    """An input of a subgraph."""

    name: str


class _Subgraph(_Graph):
    id: Id
    name: str | None = None
    links: list[_Link] | None = None  # type: ignore[assignment]
    inputs: list[_Frame] | None = None
    outputs: list[_Output] | None = None


class _Definitions(BaseModel):
    subgraphs: list[_Subgraph] | None = None


class _State(BaseModel):
    lastNodeId: _Whole | None = None


class _File(_Graph):
    last_node_id: _Whole | None = None
    definitions: _Definitions | None = None
    state: _State | None = None


def check_shape(data: Mapping[str, Any]) -> None:
    """Raise NotConvertible, with the place, for a file that has something else where a part of a workflow is read."""
    try:
        _File.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int))
        problem = f"the file is damaged (`{place}`: {first['msg']})"
        raise NotConvertible(f"{problem}; save it again in ComfyUI") from None
