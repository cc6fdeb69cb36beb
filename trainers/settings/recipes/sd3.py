"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from .recipe import ATTENTION, STEPS, Noise, Recipe

RECIPE = Recipe(
    title="SD3 and 3.5",
    classes=("SD3",),
    noise=Noise(distribution="logit-normal"),
    dropout=0.05,
    layers=ATTENTION,
    rank=16,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(1024,),
    multiple=64,
    sources={
        "noise": "OneTrainer's preset #sd 3 LoRA; shift 1 in sd-scripts docs/sd3_train_network.md, ai-toolkit and "
        "Stability's advice (SimpleTuner quickstart/SD3.md). diffusers shifts by 3",
        "dropout": "ai-toolkit's UI",
        "layers": "diffusers train_dreambooth_lora_sd3.py: attention of both streams",
        "rank": "sd-scripts docs/sd3_train_network.md; ai-toolkit train_lora_sd35_large_24gb.yaml",
        "rate": "sd-scripts docs/sd3_train_network.md; ai-toolkit train_lora_sd35_large_24gb.yaml",
        "steps": f"diffusers 1500 with Prodigy; {STEPS}",
        "sides": "ai-toolkit train_lora_sd35_large_24gb.yaml",
        "multiple": "sd-scripts library/train_util.py",
    },
    notes="diffusers weights the loss by the square of the noise level.",
)
