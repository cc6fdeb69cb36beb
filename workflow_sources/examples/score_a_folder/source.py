"""Three folders of pictures made before, against the subject's."""

from __future__ import annotations

from ...demo import DemoExample
from ...prompt import PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    del it["1"], it["2"], it["3"]
    it.photos()
    it.scorer()
    rows, scores = {}, []
    for line, (label, folder) in enumerate(
        (("Base", "teddy_bear_base"), ("DEFT r4", "teddy_bear_deft"), ("LoRA r4", "teddy_bear_lora"))
    ):
        pictures = it.add(20 + line, "DEFTLoadFolder", f"Folder: {label}", {"folder": f"demo/{folder}"})
        rows[label] = pictures
        scores.append(it.score(line, label, pictures, text=[pictures[0], 1]))
    it.grid(rows, scores, columns=["20", 1])
    it.table(scores, "Demo: folders of pictures")
    return it
