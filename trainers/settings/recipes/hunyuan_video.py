"""HunyuanVideo."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="HunyuanVideo",
    classes=("HunyuanVideo",),
    noise=Noise(distribution="logit-normal", shift=3.0),
    guidance=1.0,
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(768, 512),
    multiple=16,
    distilled="fast|distill",
    warning="FastHunyuan loses its few steps when it is trained: train on HunyuanVideo and use the adapter on it",
    sources={
        "noise": "musubi-tuner docs/hunyuan_video.md: 7, and around 3 where detail is not learnt, as from pictures",
        "guidance": "musubi-tuner training/parser_common.py; OneTrainer's preset #hunyuan video LoRA",
        "dropout": "ai-toolkit's UI",
        "layers": "musubi-tuner networks/lora.py: double and single blocks, without modulation",
        "rank": "musubi-tuner docs/hunyuan_video.md",
        "rate": f"half of musubi-tuner's 2e-4, which is with alpha 1: {OWN_ESTIMATE}",
        "steps": STEPS,
        "sides": "OneTrainer's preset #hunyuan video LoRA: 512",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
    notes="Trained on single frames.",
)
