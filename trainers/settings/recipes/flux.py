"""Flux.1 dev, Kontext and Fill."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, WITH_FEED_FORWARD, Noise, Recipe

KONTEXT = Recipe(
    title="Flux.1 Kontext",
    classes=("Flux",),
    file="kontext",
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    guidance=1.0,
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    warm_up=200,
    steps=(1000, 3000),
    sides=(768, 512),
    multiple=16,
    sources={
        "noise": "musubi-tuner docs/flux_kontext.md: flux_shift",
        "guidance": "diffusers README_flux.md; musubi-tuner flux_kontext_train_network.py",
        "dropout": "ai-toolkit train_lora_flux_24gb.yaml",
        "layers": "diffusers train_dreambooth_lora_flux.py and sd-scripts networks/lora_flux.py, without modulation as "
        "in musubi-tuner",
        "rank": "diffusers README_flux.md",
        "rate": "diffusers README_flux.md; ai-toolkit train_lora_flux_kontext_24gb.yaml",
        "warm_up": "diffusers README_flux.md",
        "steps": "diffusers README_flux.md 1000; ai-toolkit 3000",
        "sides": "ai-toolkit train_lora_flux_kontext_24gb.yaml",
        "multiple": "ai-toolkit's UI: 8 times the patch",
    },
    notes="Edits are learnt from pairs: connect a reference picture to the caption (ReferenceLatent).",
)

FILL = Recipe(
    title="Flux.1 Fill",
    classes=("FluxInpaint",),
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    guidance=1.0,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    sources={
        "noise": "sd-scripts flux_shift (library/flux_train_utils.py); OneTrainer's preset #flux LoRA; diffusion-pipe "
        "docs/supported_models.md",
        "guidance": "DiffSynth-Studio examples/flux/model_training/train.py",
        "layers": "diffusers train_dreambooth_lora_flux.py and sd-scripts networks/lora_flux.py, without modulation as "
        "in musubi-tuner",
        "rank": "DiffSynth-Studio FLUX.1-Fill-dev.sh",
        "rate": "DiffSynth-Studio FLUX.1-Fill-dev.sh",
        "steps": f"ai-toolkit: 2000 of 500 to 4000; half of it for a subject is {OWN_ESTIMATE}",
        "sides": "DiffSynth-Studio FLUX.1-Fill-dev.sh",
        "multiple": "ai-toolkit's UI: 8 times the patch",
    },
    notes="Mask and masked picture are inputs that come with the caption.",
)

FLUX_DEV = Recipe(
    title="Flux.1 dev",
    classes=("Flux",),
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    guidance=1.0,
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    steps=(1000, 2000),
    sides=(1024, 768, 512),
    multiple=16,
    distilled="turbo|hyper|lightning|schnell",
    warning="few-step models of Flux.1 lose their few steps when they are trained: train on Flux.1 dev and use "
    "the adapter on them",
    sources={
        "noise": "sd-scripts flux_shift (library/flux_train_utils.py); OneTrainer's preset #flux LoRA; diffusion-pipe "
        "docs/supported_models.md",
        "guidance": "1.0 in diffusers README_flux.md, sd-scripts docs/flux_train_network.md, ai-toolkit, OneTrainer, "
        "SimpleTuner, diffusion-pipe, DiffSynth-Studio, x-flux",
        "dropout": "ai-toolkit train_lora_flux_24gb.yaml",
        "layers": "diffusers train_dreambooth_lora_flux.py and sd-scripts networks/lora_flux.py, without modulation as "
        "in musubi-tuner",
        "rank": "ai-toolkit train_lora_flux_24gb.yaml",
        "rate": "ai-toolkit train_lora_flux_24gb.yaml; sd-scripts docs/flux_train_network.md",
        "steps": f"ai-toolkit: 2000 of 500 to 4000; half of it for a subject is {OWN_ESTIMATE}",
        "sides": "ai-toolkit train_lora_flux_24gb.yaml: the same picture at 512, 768 and 1024",
        "multiple": "ai-toolkit's UI: 8 times the patch",
    },
)
