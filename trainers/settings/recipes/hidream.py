"""HiDream I1."""

from __future__ import annotations

from .recipe import ATTENTION, OWN_ESTIMATE, Noise, Recipe

RECIPE = Recipe(
    title="HiDream I1 Full",
    classes=("HiDream",),
    noise=Noise(distribution="logit-normal", shift=3.0),
    dropout=0.05,
    layers=ATTENTION,
    rank=16,
    rate=2e-4,
    warm_up=100,
    steps=(1000, 3000),
    sides=(1024,),
    multiple=16,
    distilled="dev|fast",
    warning="HiDream Dev and Fast are distilled and lose their few steps when they are trained: train on Full",
    sources={
        "noise": "ai-toolkit train_lora_hidream_48.yaml: shift 3, drawn uniform; logit-normal in OneTrainer's preset, "
        "without a shift",
        "dropout": "ai-toolkit's UI",
        "layers": "diffusers train_dreambooth_lora_hidream.py: to_q, to_k, to_v, to_out",
        "rank": "between diffusers' 8 and ai-toolkit's 32",
        "rate": "ai-toolkit train_lora_hidream_48.yaml; diffusers README_hidream.md",
        "warm_up": "diffusers README_hidream.md",
        "steps": "diffusers 1000, ai-toolkit 3000",
        "sides": "diffusion-pipe docs/supported_models.md: below 1024 the loss gets worse. ai-toolkit mixes",
        "multiple": OWN_ESTIMATE,
    },
    notes="ComfyUI itself samples with a shift of 1. Routers are not trained.",
)
