"""Names for messages and reports: of many layers, and of long ones."""

from __future__ import annotations

import re
from collections.abc import Collection

LONG = 200  # characters of a metadata value that are shown
_LONGEST = 1500  # of an error message: names in a file can have any length
# How files name the layers of text encoders: ComfyUI, diffusers' pipelines, kohya's scripts, transformers.
_TEXT_ENCODER = re.compile(
    r"^(base_model\.model\.)?"
    r"(text_encoders?(_\d+)?\.|lora_te\d*_|text_model\.|encoder\.block\.\d+\.layer\.|text_embedding_projection)"
)


def shortened(names: Collection[str], count: int = 10) -> str:
    """The first names and the number of all others: a file can have hundreds of layers."""
    shown = list(names)[:count]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def cut(text: str) -> str:
    """The text, or its start and its length."""
    return text if len(text) <= LONG else f"{text[:LONG]} ... ({len(text)} characters)"


def one_line(text: str) -> str:
    """An error message without line breaks and of bounded length: names in a file can hold anything."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 300]} ... {line[-290:]}"


def of_text_encoder(name: str) -> bool:
    """Whether a layer's name in a file is that of a text encoder's layer."""
    return _TEXT_ENCODER.match(name) is not None
