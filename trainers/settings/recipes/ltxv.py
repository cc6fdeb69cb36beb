"""LTX-Video."""

from __future__ import annotations

from .recipe import ATTENTION, OWN_ESTIMATE, Noise, Recipe

RECIPE = Recipe(
    title="LTX-Video",
    classes=("LTXV",),
    noise=Noise(distribution="logit-normal", by_size="LTX"),
    dropout=0.05,
    layers=ATTENTION,
    rank=32,
    rate=1e-4,
    schedule="linear",
    steps=(1500, 2000),
    sides=(768,),
    multiple=32,
    distilled="distill",
    warning="the distilled LTX-Video loses its few steps when it is trained: train on the plain one",
    sources={
        "noise": "its maker's ltxv_trainer/timestep_samplers.py",
        "dropout": "ai-toolkit's UI",
        "layers": "its maker's ltxv_13b_lora_cakeify.yaml: to_q, to_k, to_v, to_out.0",
        "rank": "its maker's ltxv_2b_lora_low_vram.yaml",
        "rate": "its maker's trainer of LTX-2; its older one has 2e-4",
        "schedule": "its maker's ltxv_13b_lora_cakeify.yaml",
        "steps": f"its maker's ltxv_13b_lora_cakeify.yaml: 2000; a subject is {OWN_ESTIMATE}",
        "sides": "its maker's configurations: the area of 768 px",
        "multiple": "the VAE's 32 px",
    },
    notes="Trained on single frames. Lion collapses on it (SimpleTuner).",
)
