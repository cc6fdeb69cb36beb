"""An adapter file on the model, and a picture with it."""

from __future__ import annotations

from ...bases import BASES, draw, load
from ...demo import LORA_FILE
from ...prompt import PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    base = BASES["demo"]
    it = PromptBuilder()
    load(it, base)
    model = it.add(
        30,
        "DEFTAdapterLoader",
        "My adapter",
        {
            "model": base.sockets[0],
            "file": LORA_FILE,
            "strength_model": 1.0,
            "strength_clip": 1.0,
            "projector": "auto",
        },
    )
    it.packings = (draw(it, base, model, "a sks teddy bear on a blue background", name),)
    return it
