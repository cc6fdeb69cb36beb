"""Inputs linked to a node that gives None: left out where they are optional, else refused with a clear error message.

ComfyUI hands None on as it is, and what Python says about it names no input.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io


def guard(node: type[io.ComfyNode]) -> None:
    """Let a node's execute look at what it gets first."""
    execute = node.execute.__func__
    # ComfyUI calls a copy of the class that cannot make its schema; `node` can.

    if inspect.iscoroutinefunction(execute):

        @functools.wraps(execute)
        async def guarded(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
            return await execute(cls, *args, **given(node, inputs))

    else:

        @functools.wraps(execute)
        def guarded(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
            return execute(cls, *args, **given(node, inputs))

    setattr(node, "execute", classmethod(guarded))  # noqa: B010 - mypy takes it for a method


def given(node: type[io.ComfyNode], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs without those that are nothing.

    Raises ValueError, its message naming the node and the input, where the node cannot do without one of them.
    """
    result: dict[str, Any] = {}
    empty: list[str] = []
    for name, value in inputs.items():
        # A growing input or a dynamic combo; an adapter is a dict of a class of its own.
        parts = type(value) is dict and any(map(_is_nothing, value.values()))
        kept = {part: inner for part, inner in value.items() if not _is_nothing(inner)} if parts else value
        if _is_nothing(value) or (parts and not kept):
            empty.append(name)
        else:
            result[name] = kept
    if not empty:
        return result
    schema = node.GET_SCHEMA()
    needed = {item.id for item in schema.inputs if not getattr(item, "optional", False)}
    for name in empty:
        if name in needed:
            raise ValueError(
                f"{schema.display_name}: `{name}` received nothing, because the linked node returned None: link "
                "another node, or set a value here."
            )
    return result


def _is_nothing(value: Any) -> bool:
    """Whether a value is None, or what a node that takes lists gets for it."""
    return value is None or (isinstance(value, list) and bool(value) and all(one is None for one in value))
