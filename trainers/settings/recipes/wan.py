"""Wan 2.1, and the two 14B models of Wan 2.2."""

from __future__ import annotations

from .recipe import OWN_ESTIMATE, STEPS, WITH_FEED_FORWARD, Noise, Recipe

LOW = Recipe(
    title="Wan 2.2 14B, low noise",
    classes=("WAN21_T2V", "WAN21_I2V"),
    file="low_?-?noise",
    noise=Noise(distribution="logit-normal", shift=3.0, highest=0.875),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(1024, 768, 512),
    multiple=16,
    distilled="lightx2v|lightning|causvid|distill|self-?_?forcing",
    warning="a distilled Wan loses its few steps when it is trained: train on the plain model and use the adapter"
    " on it",
    sources={
        "noise": "shift 3 in musubi-tuner docs/wan.md; the boundary 0.875 in diffusion-pipe and DiffSynth-Studio "
        "Wan2.2-T2V-A14B.sh",
        "dropout": "ai-toolkit's UI",
        "layers": "musubi-tuner networks/lora_wan.py and DiffSynth-Studio: q, k, v, o and the feed-forward layers",
        "rank": "ai-toolkit train_lora_wan21_14b_24gb.yaml; musubi-tuner docs/wan.md",
        "rate": "ai-toolkit train_lora_wan21_14b_24gb.yaml",
        "steps": STEPS,
        "sides": "ai-toolkit train_lora_wan22_14b_24gb.yaml",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
    notes="From an image the boundary is 0.9.",
)

HIGH = Recipe(
    title="Wan 2.2 14B, high noise",
    classes=("WAN21_T2V", "WAN21_I2V"),
    file="high_?-?noise",
    noise=Noise(distribution="logit-normal", shift=3.0, lowest=0.875),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    steps=(1000, 1500),
    sides=(768, 512),
    multiple=16,
    distilled="lightx2v|lightning|causvid|distill|self-?_?forcing",
    warning="a distilled Wan loses its few steps when it is trained: train on the plain model and use the adapter"
    " on it",
    sources={
        "noise": "shift 3 in musubi-tuner docs/wan.md; the boundary 0.875 in diffusion-pipe and DiffSynth-Studio "
        "Wan2.2-T2V-A14B.sh",
        "dropout": "ai-toolkit's UI",
        "layers": "musubi-tuner networks/lora_wan.py and DiffSynth-Studio: q, k, v, o and the feed-forward layers",
        "rank": "ai-toolkit train_lora_wan21_14b_24gb.yaml; musubi-tuner docs/wan.md",
        "rate": "ai-toolkit train_lora_wan21_14b_24gb.yaml",
        "steps": f"{OWN_ESTIMATE}: what pictures show is in the low-noise model",
        "sides": "ai-toolkit train_lora_wan22_14b_24gb.yaml",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
    notes="From an image the boundary is 0.9. Pictures seldom need it.",
)

RECIPE = Recipe(
    title="Wan 2.1",
    classes=("WAN21_T2V", "WAN21_I2V", "WAN21_FunControl2V"),
    noise=Noise(distribution="logit-normal", shift=3.0),
    dropout=0.05,
    layers=WITH_FEED_FORWARD,
    rank=32,
    rate=1e-4,
    steps=(1500, 2500),
    sides=(632,),
    multiple=16,
    distilled="lightx2v|lightning|causvid|distill|self-?_?forcing",
    warning="a distilled Wan loses its few steps when it is trained: train on the plain model and use the adapter"
    " on it",
    sources={
        "noise": "musubi-tuner docs/wan.md; SimpleTuner quickstart/WAN.md. DiffSynth-Studio 5",
        "dropout": "ai-toolkit's UI",
        "layers": "musubi-tuner networks/lora_wan.py and DiffSynth-Studio: q, k, v, o and the feed-forward layers",
        "rank": "ai-toolkit train_lora_wan21_14b_24gb.yaml; musubi-tuner docs/wan.md",
        "rate": "ai-toolkit train_lora_wan21_14b_24gb.yaml",
        "steps": STEPS,
        "sides": "ai-toolkit train_lora_wan21_14b_24gb.yaml: the area of 632 px",
        "multiple": "musubi-tuner dataset/bucket.py: 16",
    },
    notes="Trained on single frames.",
)
