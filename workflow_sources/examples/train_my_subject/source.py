"""A folder of photos to an adapter that is kept, and a picture with it: one workflow a base, from one source."""

from __future__ import annotations

from ...bases import BASES, apply, draw, load, train
from ...prompt import PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form. name: "1 Train my subject (BASE)"."""
    base = BASES[name.partition("(")[2].rstrip(")")]
    it = PromptBuilder()
    load(it, base)
    adapter = train(it, base)
    model = apply(it, base, adapter)
    it.packings = (draw(it, base, model, "sks, a teddy bear on a blue background", name),)
    return it
