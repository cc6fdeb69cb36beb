"""PixArt alpha and sigma."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

RECIPE = Recipe(
    title="PixArt",
    classes=("PixArtSigma", "PixArtAlpha"),
    noise=Noise(distribution="uniform"),
    dropout=0.1,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=5e-5,
    steps=(1500, 3000),
    sides=(1024,),
    multiple=16,
    sources={
        "noise": "its maker's train_pixart_lora_hf.py; OneTrainer",
        "dropout": "its maker's PixArt_sigma_xl2_img1024_internalms.py",
        "layers": "its maker's train_pixart_lora_hf.py",
        "rank": "its maker's train_pixart_lora.sh; OneTrainer's preset",
        "rate": f"between its maker's 1e-5, with batches of 16, and what others use: {OWN_ESTIMATE}",
        "steps": STEPS,
        "sides": "its maker's PixArt_sigma_xl2_img1024_internalms.py",
        "multiple": "OneTrainer PixArtAlphaBaseDataLoader.py",
    },
)
