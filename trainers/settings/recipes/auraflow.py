"""AuraFlow and Pony V7."""

from __future__ import annotations

from .recipe import ATTENTION, OWN_ESTIMATE, STEPS, Noise, Recipe

RECIPE = Recipe(
    title="AuraFlow",
    classes=("AuraFlow",),
    noise=Noise(distribution="logit-normal", shift=1.73),
    layers=ATTENTION,
    rank=16,
    rate=1e-4,
    warm_up=100,
    steps=(1000, 2500),
    sides=(1024,),
    multiple=64,
    sources={
        "noise": "SimpleTuner simpletuner/helpers/models/auraflow/model.py; diffusion-pipe has 1",
        "layers": "SimpleTuner examples/auraflow.peft-lora: the projections of attention",
        "rank": f"twice SimpleTuner's 8: {OWN_ESTIMATE}",
        "rate": "SimpleTuner examples/auraflow.peft-lora (with Lion)",
        "warm_up": "SimpleTuner examples/auraflow.peft-lora",
        "steps": STEPS,
        "sides": "the model's own size",
        "multiple": OWN_ESTIMATE,
    },
)
