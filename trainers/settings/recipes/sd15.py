"""Stable Diffusion 1.5."""

from __future__ import annotations

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="SD 1.5",
    classes=("SD15",),
    noise=Noise(distribution="uniform"),
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(800, 2000),
    sides=(512,),
    multiple=8,
    sources={
        "noise": "all four references: diffusers, sd-scripts, OneTrainer, DiffSynth-Studio",
        "layers": "sd-scripts networks/lora.py: all linear layers of Transformer2DModel",
        "rank": "sd-scripts docs/train_network.md",
        "rate": "diffusers examples/dreambooth/README.md; sd-scripts docs/train_network.md",
        "steps": f"diffusers has 500; {STEPS}",
        "sides": "diffusers examples/dreambooth/README.md",
        "multiple": "OneTrainer StableDiffusionBaseDataLoader.py",
    },
    notes="The text encoder is not trained: with few photos it would memorise them first.",
)
