"""Lumina 2."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="Lumina 2",
    classes=("Lumina2",),
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(1024, 512),
    multiple=16,
    sources={
        "noise": "its maker's scripts/run_1024_finetune.sh and transport/transport.py; sd-scripts draws uniform with "
        "the same shift. ai-toolkit 6",
        "dropout": "ai-toolkit's UI",
        "layers": "sd-scripts networks/lora_lumina.py",
        "rank": "ai-toolkit train_lora_lumina.yaml",
        "rate": "ai-toolkit train_lora_lumina.yaml; sd-scripts docs/lumina_train_network.md",
        "steps": STEPS,
        "sides": "diffusion-pipe recommended_lumina_dataset_config.toml: half 512, half 1024",
        "multiple": OWN_ESTIMATE,
    },
    notes="Each caption begins with the model's system prompt.",
)
