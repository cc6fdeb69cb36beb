"""Krea 2."""

from __future__ import annotations

from .recipe import ALL_LINEAR, STEPS, Noise, Recipe

KREA2_TURBO = Recipe(
    title="Krea 2 Turbo",
    classes=("Krea2",),
    file="turbo",
    noise=Noise(distribution="logit-normal", by_size="Krea 2"),
    dropout=0.05,
    layers=ALL_LINEAR,
    rank=32,
    rate=1e-4,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    distilled=".",
    warning="Krea 2 Turbo is distilled, which a training undoes: train on Krea 2 RAW and use the adapter on "
    "Turbo, as its maker advises; or load ostris' training adapter on the model that is trained, and give"
    " Training Previews the model without it",
    sources={
        "noise": "musubi-tuner training/trainer_base.py: krea2_shift",
        "dropout": "ai-toolkit's UI",
        "layers": "its maker's list in diffusers README_krea2.md; musubi-tuner docs/krea2.md",
        "rank": "its maker's README.md; musubi-tuner docs/krea2.md",
        "rate": "musubi-tuner docs/krea2.md",
        "steps": STEPS,
        "sides": "SimpleTuner quickstart/KREA2.md",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
)

RAW = Recipe(
    title="Krea 2 RAW",
    classes=("Krea2",),
    noise=Noise(distribution="logit-normal", by_size="Krea 2"),
    dropout=0.05,
    layers=ALL_LINEAR,
    rank=32,
    rate=1e-4,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    sources={
        "noise": "musubi-tuner training/trainer_base.py: krea2_shift; 2.5 in its docs/krea2.md",
        "dropout": "ai-toolkit's UI",
        "layers": "its maker's list in diffusers README_krea2.md; musubi-tuner docs/krea2.md",
        "rank": "its maker's README.md; musubi-tuner docs/krea2.md",
        "rate": "musubi-tuner docs/krea2.md; the maker's 3e-4 is with a gaussian start",
        "steps": STEPS,
        "sides": "SimpleTuner quickstart/KREA2.md",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
    notes="Long runs: attention only, at rank 64 (its maker).",
)
