"""Flux.2 dev and klein."""

from __future__ import annotations

from dataclasses import replace

from .recipe import STEPS, WITH_FEED_FORWARD, Noise, Recipe

KLEIN_4B = Recipe(
    title="Flux.2 klein 4B",
    classes=("Flux2",),
    when=lambda config: config.get("hidden_size") == 3072,
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    warm_up=100,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    distilled="^(?!.*base).*klein",
    warning="the distilled klein loses its four steps when it is trained: train on klein base "
    "(flux-2-klein-base-...) and use the adapter on the distilled one",
    sources={
        "noise": "musubi-tuner docs/flux_2.md: flux2_shift; OneTrainer modules/model/Flux2Model.py. diffusion-pipe 3, "
        "DiffSynth-Studio 2.2",
        "dropout": "ai-toolkit's UI",
        "layers": "DiffSynth-Studio FLUX.2-klein-base-4B.sh; without modulation, as in musubi-tuner",
        "rank": "musubi-tuner docs/flux_2.md; DiffSynth-Studio FLUX.2-klein-base-4B.sh",
        "rate": "diffusers README_flux2.md; musubi-tuner docs/flux_2.md",
        "warm_up": "diffusers README_flux2.md",
        "steps": STEPS,
        "sides": "ai-toolkit's UI: the largest of 512, 768 and 1024",
        "multiple": "ai-toolkit's UI",
    },
)

KLEIN_9B = replace(KLEIN_4B, title="Flux.2 klein 9B", when=lambda config: config.get("hidden_size") == 4096)

FLUX2_DEV = Recipe(
    title="Flux.2 dev",
    classes=("Flux2",),
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    guidance=1.0,
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=16,
    rate=1e-4,
    warm_up=100,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    distilled="turbo|distill|lightning",
    warning="a distilled Flux.2 loses its few steps when it is trained: train on the model that it was made of",
    sources={
        "noise": "musubi-tuner docs/flux_2.md: flux2_shift; OneTrainer modules/model/Flux2Model.py. diffusion-pipe 3, "
        "DiffSynth-Studio 2.2",
        "guidance": "diffusers README_flux2.md; musubi-tuner docs/flux_2.md; SimpleTuner quickstart/FLUX2.md",
        "dropout": "ai-toolkit's UI",
        "layers": "DiffSynth-Studio FLUX.2-klein-base-4B.sh; without modulation, as in musubi-tuner",
        "rank": "between diffusers' 4 and musubi-tuner's 32",
        "rate": "diffusers README_flux2.md; musubi-tuner docs/flux_2.md",
        "warm_up": "diffusers README_flux2.md",
        "steps": STEPS,
        "sides": "ai-toolkit's UI: the largest of 512, 768 and 1024",
        "multiple": "ai-toolkit's UI",
    },
)
