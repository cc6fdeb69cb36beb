"""Chroma and Chroma Radiance."""

from __future__ import annotations

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="Chroma",
    classes=("Chroma", "ChromaRadiance"),
    noise=Noise(distribution="inverted parabola"),
    guidance=0.0,
    dropout=0.1,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1500, 3000),
    sides=(1024, 768, 512),
    multiple=32,
    distilled="flash",
    warning="Chroma Flash loses its few steps when it is trained: train on Chroma and use the adapter on it",
    sources={
        "noise": "its author's trainer, lodestone-rock/flow src/trainer/train_chroma_lora.py; OneTrainer's preset "
        "#chroma LoRA",
        "guidance": "sd-scripts docs/flux_train_network.md: 0.0",
        "dropout": "its author's training_config_chroma_lora.json; ai-toolkit 0.05",
        "layers": "its author's training_config_chroma_lora.json: double and single blocks",
        "rank": "ai-toolkit train_lora_chroma_24gb.yaml",
        "rate": "ai-toolkit train_lora_chroma_24gb.yaml; its author has 1e-5 with batches of 128",
        "steps": STEPS,
        "sides": "ai-toolkit's UI: 512, 768 and 1024",
        "multiple": "ai-toolkit",
    },
    notes="The approximator (distilled_guidance_layer) is not trained.",
)
