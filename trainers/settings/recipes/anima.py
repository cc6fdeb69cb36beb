"""Anima."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="Anima",
    classes=("Anima",),
    noise=Noise(distribution="logit-normal"),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=2e-5,
    steps=(2000, 4000),
    sides=(1024, 768),
    multiple=32,
    sources={
        "noise": "sd-scripts docs/anima_train_network.md: sigmoid, shift 1. SimpleTuner 3",
        "dropout": "ai-toolkit's UI",
        "layers": "sd-scripts networks/lora_anima.py and OneTrainer's preset #anima LoRA, without the adapter of the "
        "language model",
        "rank": "between sd-scripts' 8 and SimpleTuner's 64",
        "rate": "between SimpleTuner's 1e-5 and OneTrainer's 3e-5; diffusion-pipe: lower than for others",
        "steps": f"more because of the low rate: {OWN_ESTIMATE}",
        "sides": "ai-toolkit's UI",
        "multiple": "ai-toolkit: 32",
    },
)
