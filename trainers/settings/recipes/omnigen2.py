"""OmniGen2."""

from __future__ import annotations

from .recipe import ATTENTION, OWN_ESTIMATE, Noise, Recipe

RECIPE = Recipe(
    title="OmniGen2",
    classes=("Omnigen2",),
    noise=Noise(distribution="logit-normal", by_size="Flux"),
    dropout=0.01,
    layers=ATTENTION,
    rank=16,
    rate=1e-4,
    steps=(1500, 3000),
    sides=(1024, 768, 512),
    multiple=16,
    sources={
        "noise": "its maker's train.py and omnigen2/transport/transport.py",
        "dropout": "between its maker's 1e-4 and ai-toolkit's 0.05",
        "layers": "its maker's options/ft_lora.yml: to_q, to_k, to_v, to_out.0",
        "rank": "ai-toolkit train_lora_omnigen2_24gb.yaml",
        "rate": "ai-toolkit train_lora_omnigen2_24gb.yaml; its maker's 8e-7 is a rate of full tuning",
        "steps": f"ai-toolkit 3000; half of it for a subject is {OWN_ESTIMATE}",
        "sides": "ai-toolkit train_lora_omnigen2_24gb.yaml: the same picture at 512, 768 and 1024",
        "multiple": OWN_ESTIMATE,
    },
)
