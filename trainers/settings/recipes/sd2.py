"""Stable Diffusion 2.1."""

from __future__ import annotations

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="SD 2.1",
    classes=("SD20",),
    noise=Noise(distribution="uniform"),
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(800, 2000),
    sides=(768,),
    multiple=8,
    sources={
        "noise": "OneTrainer's preset #sd 2.1 LoRA",
        "layers": "as SD 1.5: sd-scripts networks/lora.py",
        "rank": "OneTrainer's preset #sd 2.1 LoRA",
        "rate": "as SD 1.5: diffusers and sd-scripts",
        "steps": STEPS,
        "sides": "the model's own size; OneTrainer trains at 512",
        "multiple": "OneTrainer StableDiffusionBaseDataLoader.py",
    },
    notes="ComfyUI distinguishes noise and v prediction by the spread of one norm's bias, which fine-tuning may move "
    "across the limit.",
)
