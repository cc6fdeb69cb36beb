"""HunyuanImage 2.1."""

from __future__ import annotations

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="HunyuanImage 2.1",
    classes=("HunyuanImage21",),
    noise=Noise(distribution="uniform", shift=5.0),
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(2048,),
    multiple=64,
    distilled="distill",
    warning="the distilled HunyuanImage loses its few steps when it is trained: train on the plain one",
    sources={
        "noise": "sd-scripts hunyuan_image_train_network.py: sigma with discrete_flow_shift 5",
        "layers": "sd-scripts networks/lora_hunyuan_image.py, without modulation",
        "rank": "sd-scripts docs/hunyuan_image_train_network.md",
        "rate": "sd-scripts docs/hunyuan_image_train_network.md",
        "steps": STEPS,
        "sides": "sd-scripts docs/hunyuan_image_train_network.md: one size only; 1024 saves memory",
        "multiple": "sd-scripts",
    },
)
