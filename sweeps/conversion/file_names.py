"""%Node.widget% and %date:...% in names of files, as the page replaces them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .errors import refused
from .nodes import ABSENT, Node

if TYPE_CHECKING:
    from .hosts import Opened

SAVING = {
    *("SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio"),
    *("SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB", "Save3DAdvanced", "SaveGaussianSplat"),
    *("SavePointCloud", "SaveAnimatedPNG", "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"),
}
_NAME = "Node name for S&R"


def replaced(opened: Opened, where: str, text: Any) -> str:
    """A text with the values of the widgets that it names. Raises NotConvertible for a date, or for what is no text."""
    if not isinstance(text, str):
        raise refused(where, f"has {text!r} where a text is needed")

    def value(match: re.Match[str]) -> str:
        name, *more = match[1].split(".")
        if len(more) != 1:
            if name.startswith("date:"):
                raise refused(
                    where,
                    f"has {match[0]}, which is another text at each run",
                    "write the date, or another name, in its place",
                )
            return match[0]
        nodes = list(opened.every())
        named = [node for node in nodes if _named(node) == name] or [node for node in nodes if node.title == name]
        widget = named[0].widget(more[0]) if named else None
        if widget is None:
            return match[0]
        return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", _text(widget.value))

    return re.sub(r"%([^%]+)%", value, text)


def _named(node: Node) -> Any:
    name = node.properties.get(_NAME)
    return name if name is not None or node.type in SAVING or node.definition is None else node.type


def _text(value: Any) -> str:
    """A value as JavaScript writes it."""
    if value is None or value is ABSENT:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return str(value)
