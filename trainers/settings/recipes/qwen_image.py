"""Qwen-Image and Qwen-Image Edit."""

from __future__ import annotations

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

EDIT = Recipe(
    title="Qwen-Image Edit",
    classes=("QwenImage",),
    file="edit",
    when=lambda config: config.get("default_ref_method") == "index_timestep_zero",
    noise=Noise(distribution="logit-normal", by_size="Qwen"),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(3000, 3000),
    sides=(1024, 768, 512),
    multiple=32,
    distilled="lightning|turbo|distill",
    warning="few-step models of Qwen-Image lose their few steps when they are trained: train on the plain one",
    sources={
        "noise": "musubi-tuner docs/qwen_image.md: qwen_shift",
        "dropout": "ai-toolkit train_lora_qwen_image_24gb.yaml",
        "layers": "musubi-tuner networks/lora_qwen_image.py: linear layers in blocks without modulation; OneTrainer",
        "rank": "ai-toolkit train_lora_qwen_image_24gb.yaml",
        "rate": "ai-toolkit train_lora_qwen_image_24gb.yaml; musubi-tuner has 5e-5",
        "steps": "ai-toolkit train_lora_qwen_image_edit_2509_32gb.yaml",
        "sides": "ai-toolkit train_lora_qwen_image_edit_2509_32gb.yaml",
        "multiple": "ai-toolkit qwen_image.py: 32",
    },
    notes="Edits are learnt from pairs, and the text encoder sees the reference picture.",
)

RECIPE = Recipe(
    title="Qwen-Image",
    classes=("QwenImage",),
    noise=Noise(distribution="logit-normal", by_size="Qwen"),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1500, 3000),
    sides=(1024, 768, 512),
    multiple=32,
    distilled="lightning|turbo|distill",
    warning="few-step models of Qwen-Image lose their few steps when they are trained: train on the plain one",
    sources={
        "noise": "musubi-tuner docs/qwen_image.md: qwen_shift, which is its 2.2 at 1328 px",
        "dropout": "ai-toolkit train_lora_qwen_image_24gb.yaml",
        "layers": "musubi-tuner networks/lora_qwen_image.py: linear layers in blocks without modulation; OneTrainer",
        "rank": "ai-toolkit train_lora_qwen_image_24gb.yaml",
        "rate": "ai-toolkit train_lora_qwen_image_24gb.yaml; musubi-tuner has 5e-5",
        "steps": STEPS,
        "sides": "ai-toolkit train_lora_qwen_image_24gb.yaml: the same picture at 512, 768 and 1024",
        "multiple": "ai-toolkit qwen_image.py: 32",
    },
)
