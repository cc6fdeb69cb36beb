"""Stable Diffusion XL and what was made smaller of it."""

from __future__ import annotations

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="SDXL",
    classes=("SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B"),
    noise=Noise(distribution="uniform"),
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1000, 2500),
    sides=(1024,),
    multiple=64,
    distilled="turbo|lightning|hyper|dmd|lcm",
    warning="few-step models of SDXL lose their few steps when they are trained: train on SDXL itself and use the"
    " adapter on them",
    sources={
        "noise": "diffusers, sd-scripts and OneTrainer",
        "layers": "sd-scripts networks/lora.py",
        "rank": "OneTrainer's preset #sdxl 1.0 LoRA (its alpha is 1)",
        "rate": "diffusers examples/dreambooth/README_sdxl.md; sd-scripts docs/sdxl_train_network.md; SimpleTuner "
        "quickstart/SDXL.md",
        "steps": f"diffusers has 500; {STEPS}",
        "sides": "diffusers examples/dreambooth/README_sdxl.md",
        "multiple": "sd-scripts docs/sdxl_train_network.md, library/train_util.py",
    },
    notes="The VAE overflows in fp16: encode in bf16 or fp32.",
)
