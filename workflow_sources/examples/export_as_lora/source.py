"""A DEFT file as a plain LoRA, which ComfyUI's own node applies; the difference of the pictures."""

from __future__ import annotations

from ...demo import DEFT_FILE, MODEL, DemoExample, on_backgrounds
from ...prompt import PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.photos()
    it.prompts(on_backgrounds("a sks teddy bear", 5))
    it.sampling()
    adapter = it.add(20, "DEFTLoadAdapterFile", "The DEFT file", {"file": DEFT_FILE, "projector": "auto"})
    lora = it.add(
        21,
        "DEFTExportLoRA",
        "Export as LoRA",
        {
            "adapter": adapter,
            "model": MODEL,
            "filename_prefix": f"{it.name}/teddy_bear",
            "place": "output",
            "naming": "comfyui",
            "rank_limit": 0,
        },
    )
    it.show_text(72 + 1, "What was exported", [lora[0], 2])
    with_lora = it.add(
        31,
        "LoraModelLoader",
        "ComfyUI's own Load LoRA Model",
        {"model": MODEL, "lora": lora, "strength_model": 1.0, "bypass": False},
    )
    rows = {
        "DEFT": it.draw(0, "with DEFT", it.apply(30, "DEFT", adapter)),
        "Its LoRA": it.draw(1, "with its LoRA", with_lora),
    }
    rows["Difference"] = it.add(
        60,
        "ImageBlend",
        "Difference",
        {
            "image1": rows["DEFT"],
            "image2": rows["Its LoRA"],
            "blend_factor": 1.0,
            "blend_mode": "difference",
        },
    )
    it.grid(rows)
    return it
