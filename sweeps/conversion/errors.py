"""Why a workflow cannot be converted: what the page would make of it cannot be known, or the page itself fails."""

from __future__ import annotations

EXPORT = "open it in ComfyUI and save it with File > Export (API)"


class NotConvertible(ValueError):
    """A workflow in UI form that is refused. The text names node and input, and what to do."""


class MissingNodes(NotConvertible):
    """The server lacks nodes of a workflow. types: their classes."""

    def __init__(self, types: list[str]) -> None:
        super().__init__(f"this ComfyUI has no node {', '.join(types)}")
        self.types = types


def refused(where: str, problem: str, advice: str = EXPORT) -> NotConvertible:
    """The error for a node, "KSampler (3)", or a part of it, "KSampler (3): `seed`"."""
    return NotConvertible(f"{where}: {problem}; {advice}")
