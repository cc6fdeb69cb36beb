"""Cosmos Predict 2."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="Cosmos Predict2",
    classes=("CosmosT2IPredict2",),
    noise=Noise(distribution="logit-normal"),
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=2e-4,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    sources={
        "noise": "its maker's schedulers/rectified_flow_scheduler.py: log-normal sigma, which is a logit-normal share "
        "of noise",
        "layers": "its maker's post-training_video2world_lora.md: q, k, v, output_proj and mlp",
        "rank": "its maker's post-training_video2world_lora.md (2B; 14B has 32)",
        "rate": f"between its maker's 2^-10 and SimpleTuner's 6e-5: {OWN_ESTIMATE}",
        "steps": STEPS,
        "sides": "SimpleTuner quickstart/COSMOS2IMAGE.md",
        "multiple": "SimpleTuner quickstart/COSMOS2IMAGE.md",
    },
    notes="A base in fp8 (e4m3) does not train well (diffusion-pipe).",
)
