"""Two adapters alone, one after the other, and added up."""

from __future__ import annotations

from typing import Any

from ...demo import DEFT_FILE, MODEL, SECOND, SECOND_FILE, SECOND_TOKEN, DemoExample, on_backgrounds
from ...prompt import TOKEN, PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    both_subjects = it.add(
        6,
        "BatchImagesNode",
        "Both subjects",
        {
            "images.image0": it.photos(title="Pictures of the bear"),
            "images.image1": it.photos(SECOND, 5, "Pictures of the duck"),
        },
    )
    first, second = on_backgrounds(f"a {TOKEN} teddy bear", 3), on_backgrounds(f"a {SECOND_TOKEN} {SECOND}", 3)
    it.prompts(first + second, token="")
    it.sampling()
    files = {"bear": DEFT_FILE, "duck": SECOND_FILE}
    adapters = [
        it.add(20 + line, "DEFTLoadAdapterFile", f"Adapter of the {name}", {"file": file, "projector": "auto"})
        for line, (name, file) in enumerate(files.items())
    ]
    models = {
        "Base": MODEL,
        "Bear": it.apply(30, "the bear", adapters[0]),
        "Duck": it.apply(31, "the duck", adapters[1]),
    }
    for line, stacking in enumerate(("sequential", "from_base")):
        both: dict[str, Any] = {"stacking": stacking, "strength_model": 0.7}
        bear = it.apply(32 + 2 * line, f"the bear, {stacking}", adapters[0], **both)
        duck = it.apply(33 + 2 * line, f"the duck, {stacking}", adapters[1], bear, **both)
        models[f"Both, {stacking}"] = duck
    rows = {label: it.draw(line, label, model) for line, (label, model) in enumerate(models.items())}
    it.grid(rows, subject=both_subjects)
    return it
