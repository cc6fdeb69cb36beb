"""Flux.1 schnell."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="Flux.1 schnell",
    classes=("FluxSchnell",),
    noise=Noise(distribution="logit-normal"),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1000, 2000),
    sides=(1024, 768, 512),
    multiple=16,
    distilled=".",
    warning="Flux.1 schnell is distilled to four steps, which a training undoes: load ostris' "
    "FLUX.1-schnell-training-adapter on the model that is trained, and give Training Previews the model "
    "without it",
    sources={
        "noise": "ai-toolkit train_lora_flux_schnell_24gb.yaml: sigmoid",
        "dropout": "ai-toolkit train_lora_flux_24gb.yaml",
        "layers": "diffusers train_dreambooth_lora_flux.py and sd-scripts networks/lora_flux.py, without modulation as "
        "in musubi-tuner",
        "rank": "ai-toolkit train_lora_flux_schnell_24gb.yaml",
        "rate": "ai-toolkit train_lora_flux_schnell_24gb.yaml",
        "steps": f"ai-toolkit: 2000 of 500 to 4000; half of it for a subject is {OWN_ESTIMATE}",
        "sides": "ai-toolkit train_lora_flux_24gb.yaml: the same picture at 512, 768 and 1024",
        "multiple": "ai-toolkit's UI: 8 times the patch",
    },
)
