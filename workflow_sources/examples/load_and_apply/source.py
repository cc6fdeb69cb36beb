"""The adapters that come with the pack: without one, DEFT, LoRA."""

from __future__ import annotations

from ...demo import DEFT_FILE, LORA_FILE, MODEL, DemoExample, on_backgrounds
from ...prompt import PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.photos()
    it.prompts(on_backgrounds("a sks teddy bear", 5))
    it.sampling()
    rows = {"Base": it.draw(0, "the base model", MODEL)}
    for line, (label, file) in enumerate((("DEFT", DEFT_FILE), ("LoRA", LORA_FILE)), 1):
        model = it.add(
            20 + line,
            "DEFTAdapterLoader",
            f"Load {label}",
            {"model": MODEL, "file": file, "strength_model": 1.0, "strength_clip": 1.0, "projector": "auto"},
        )
        it.show_text(30 + line, f"What was applied: {label}", [model[0], 2])
        rows[label] = it.draw(line, f"with {label}", model)
    it.grid(rows)
    return it
