"""HTML from the templates in this folder. Every value is escaped by jinja2 (autoescape), so nothing here is by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_TEMPLATES = Path(__file__).parent / "templates"
BUFFERED = 200  # pieces of text that are joined before they are given on


def render(name: str, **values: Any) -> str:
    """A template with these values. Raises jinja2.UndefinedError for a value that it needs and does not get."""
    return _template(name).render(values)


def stream(name: str, **values: Any) -> Iterator[str]:
    """The same, piece by piece: generators among the values are asked while the page is written."""
    pieces = _template(name).stream(values)
    pieces.enable_buffering(BUFFERED)
    return pieces


def _template(name: str) -> Template:
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # axes stay in the plan's order
    return environment
