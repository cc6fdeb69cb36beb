"""The layout of the paper's figure 1. The ids are used by tests."""

from __future__ import annotations

from ...demo import CLIP, DEMO_METHODS, ENCODED, MODEL, DemoExample, on_backgrounds
from ...prompt import PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.subject()
    it.prompts(on_backgrounds("a sks teddy bear"))
    it.sampling()
    it.scorer()
    applied, trained = {}, {}
    for line, method in enumerate(DEMO_METHODS):
        trained[method] = it.train(20 + line, f"{method} r4")
        applied[method] = it.apply(30 + line, f"{method} r4", trained[method])
    bare = it.add(12, "CLIPTextEncode", "Prompts without the rare word, encoded", {"text": ["13", 0], "clip": CLIP})
    it.add(
        13,
        "DEFTPrompts",
        "Prompts without the rare word",
        {"prompts": "\n".join(on_backgrounds("a teddy bear")), "token": ""},
    )
    rows, scores = {}, []
    for line, label, method, positive in (
        (0, "Base", "", ENCODED),
        (3, "LoRA r4", "LoRA", ENCODED),
        (4, "PaRa r4 + Uncond.", "PaRa", bare),
        (2, "PaRa r4", "PaRa", ENCODED),
        (1, "DEFT r4", "DEFT", ENCODED),
    ):
        rows[label] = it.draw(line, label, applied.get(method, MODEL), positive)
        scores.append(it.score(line, label, rows[label], trained.get(method)))
    it.grid(rows, scores)
    it.table(scores, "Demo: teddy bear")
    it.plot(scores, "Demo: teddy bear")
    return it
