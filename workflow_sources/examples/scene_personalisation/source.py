"""Figures 4 and 5: a table with things on it, and a garden."""

from __future__ import annotations

from ...demo import CLIP, MODEL, Example
from ...prompt import TOKEN, Prompt

SCENES = {
    "table": (
        "a sks table with a red apple and candle on a blue background",
        "a sks table with a pineapple and candle on a yellow background",
        "a sks table with a guitar on a teal background",
        "a sks table with a red apple on a black background",
        "a sks table on a white background",
    ),
    "garden": (
        "a sks garden with a tulip and house on a blue background",
        "a sks garden with a sunflower and snowman on a teal background",
        "a sks garden with a castle on a pink background",
        "a sks garden with a tulip on a black background",
        "a sks garden on a white background",
    ),
}


def prompt(name: str) -> Prompt:
    """The workflow in API form."""
    it = Example(name)
    it.sampling()
    for number, (scene, lines) in enumerate(SCENES.items()):
        first = 100 * (number + 1)
        photos = it.subject(scene, first, f" of the {scene}")
        it.add(first + 3, "DEFTPrompts", f"Prompts of the {scene}", {"prompts": "\n".join(lines), "token": TOKEN})
        encoded = it.add(
            first + 4,
            "CLIPTextEncode",
            f"Encode the prompts of the {scene}",
            {"text": [str(first + 3), 0], "clip": CLIP},
        )
        adapter = it.train(
            first + 10,
            f"DEFT r8, {scene}",
            [str(first + 1), 0],
            [str(first + 2), 0],
            **{"method.rank": 8, "steps": 600},
        )
        models = {"Base": MODEL, "DEFT r8": it.apply(first + 11, f"DEFT r8, {scene}", adapter)}
        rows = {
            label: it.draw(line, f"{label}, {scene}", model, encoded, first + 20, first + 30)
            for line, (label, model) in enumerate(models.items())
        }
        it.grid(rows, [], photos, [str(first + 3), 1], first + 40, f"Side by side, {scene}", f"grid_{scene}")
    return it
