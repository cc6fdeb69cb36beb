"""Z-Image and Z-Image Turbo."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

Z_IMAGE_TURBO = Recipe(
    title="Z-Image Turbo",
    classes=("ZImage",),
    file="^(?!.*de-?_?turbo).*turbo",
    noise=Noise(distribution="logit-normal", shift=2.0),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1500, 3000),
    sides=(1024, 768, 512),
    multiple=16,
    distilled=".",
    warning="Z-Image Turbo is distilled to eight steps, which a training undoes: load ostris' "
    "zimage_turbo_training_adapter_v2 on the model that is trained, and give Training Previews the model "
    "without it; or train on Z-Image",
    sources={
        "noise": "musubi-tuner docs/zimage.md: 2.0, which it calls unclear; OneTrainer 1, DiffSynth-Studio, diffusers "
        "3",
        "dropout": "ai-toolkit's UI",
        "layers": "musubi-tuner networks/lora_zimage.py and OneTrainer's preset: no refiner, no modulation",
        "rank": f"half of musubi-tuner's 32: {OWN_ESTIMATE}",
        "rate": "musubi-tuner docs/zimage.md; diffusers README_z_image.md",
        "steps": STEPS,
        "sides": "ai-toolkit's UI: 512, 768 and 1024",
        "multiple": "ai-toolkit's UI",
    },
)

RECIPE = Recipe(
    title="Z-Image",
    classes=("ZImage",),
    noise=Noise(distribution="logit-normal", shift=2.0),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    warm_up=100,
    steps=(1500, 3000),
    sides=(1024, 768, 512),
    multiple=16,
    sources={
        "noise": "musubi-tuner docs/zimage.md: 2.0, which it calls unclear; OneTrainer 1, DiffSynth-Studio, diffusers "
        "3",
        "dropout": "ai-toolkit's UI",
        "layers": "musubi-tuner networks/lora_zimage.py and OneTrainer's preset: no refiner, no modulation",
        "rank": "musubi-tuner docs/zimage.md; ai-toolkit's UI",
        "rate": "musubi-tuner docs/zimage.md; diffusers README_z_image.md",
        "warm_up": "diffusers README_z_image.md",
        "steps": STEPS,
        "sides": "ai-toolkit's UI: 512, 768 and 1024",
        "multiple": "ai-toolkit's UI",
    },
)
