"""Figures 4 and 5, each an example of its own: a table with things on it, and a garden."""

from __future__ import annotations

from ...demo import CAPTIONS, LATENTS, MODEL, PROMPT_TEXT, DemoExample
from ...prompt import PromptBuilder

# By the example's name: the scene, and what is drawn of it.
_SCENES = {
    "scene_personalisation": (
        "table",
        (
            "a sks table with a red apple and candle on a blue background",
            "a sks table with a pineapple and candle on a yellow background",
            "a sks table with a guitar on a teal background",
            "a sks table with a red apple on a black background",
            "a sks table on a white background",
        ),
    ),
    "scene_personalisation_garden": (
        "garden",
        (
            "a sks garden with a tulip and house on a blue background",
            "a sks garden with a sunflower and snowman on a teal background",
            "a sks garden with a castle on a pink background",
            "a sks garden with a tulip on a black background",
            "a sks garden on a white background",
        ),
    ),
}


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    scene, lines = _SCENES[name]
    it = DemoExample(name)
    photos = it.subject(scene, of=f" of the {scene}")
    it.prompts(lines)
    it.sampling()
    adapter = it.train(20, "DEFT r8", LATENTS, CAPTIONS, **{"method.rank": 8, "steps": 600})
    models = {"Base": MODEL, "DEFT r8": it.apply(30, "DEFT r8", adapter)}
    rows = {label: it.draw(line, label, model) for line, (label, model) in enumerate(models.items())}
    it.grid(rows, [], photos, PROMPT_TEXT)
    return it
