"""One adapter in several strengths."""

from __future__ import annotations

from ...demo import DEFT_FILE, DemoExample, on_backgrounds
from ...prompt import PromptBuilder

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.photos()
    it.prompts(on_backgrounds("a sks teddy bear", 5))
    it.sampling()
    it.scorer()
    adapter = it.add(20, "DEFTLoadAdapterFile", "The DEFT file", {"file": DEFT_FILE, "projector": "auto"})
    rows, scores = {}, []
    for line, strength in enumerate(STRENGTHS):
        label = f"Strength {strength:g}"
        model = it.apply(30 + line, label.lower(), adapter, strength_model=strength)
        rows[label] = it.draw(line, label.lower(), model)
        scores.append(it.score(line, label, rows[label]))
    it.grid(rows, scores)
    it.table(scores, "Demo: strength of one adapter")
    it.plot(scores, "Demo: strength of one adapter")
    return it
