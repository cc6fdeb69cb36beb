"""Kandinsky 5 Image and Video."""

from __future__ import annotations

from .recipe import ATTENTION, OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

IMAGE = Recipe(
    title="Kandinsky 5 Image",
    classes=("Kandinsky5Image",),
    noise=Noise(distribution="logit-normal", shift=2.0),
    layers=ATTENTION,
    rank=32,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(1024,),
    multiple=16,
    sources={
        "noise": f"between SimpleTuner's 1 and the model's 3: {OWN_ESTIMATE}",
        "layers": "SimpleTuner quickstart/KANDINSKY5_IMAGE.md: to_key, to_query, to_value",
        "rank": "musubi-tuner docs/kandinsky5.md",
        "rate": "musubi-tuner docs/kandinsky5.md",
        "steps": STEPS,
        "sides": "SimpleTuner quickstart/KANDINSKY5_IMAGE.md",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
)

VIDEO = Recipe(
    title="Kandinsky 5 Video",
    classes=("Kandinsky5",),
    noise=Noise(distribution="logit-normal", shift=5.0),
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(768, 512),
    multiple=16,
    distilled="distill",
    warning="the distilled Kandinsky loses its few steps when it is trained: train on the pretrained or the SFT one",
    sources={
        "noise": "musubi-tuner docs/kandinsky5.md",
        "layers": "musubi-tuner networks/lora_kandinsky.py, without modulation",
        "rank": "musubi-tuner docs/kandinsky5.md",
        "rate": "musubi-tuner docs/kandinsky5.md",
        "steps": STEPS,
        "sides": OWN_ESTIMATE,
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
    notes="Trained on single frames.",
)
