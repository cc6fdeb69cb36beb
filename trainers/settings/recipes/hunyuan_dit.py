"""HunyuanDiT 1.1 and 1.2."""

from __future__ import annotations

from .recipe import ATTENTION, OWN_ESTIMATE, Noise, Recipe

RECIPE = Recipe(
    title="HunyuanDiT",
    classes=("HunyuanDiT", "HunyuanDiT1"),
    noise=Noise(distribution="uniform"),
    layers=ATTENTION,
    rank=32,
    rate=1e-4,
    steps=(1000, 2000),
    sides=(1024,),
    multiple=16,
    sources={
        "noise": "its maker's hydit/train_deepspeed.py",
        "layers": "its maker's lora/train_lora.sh: Wqkv, q, kv, out",
        "rank": f"half of its maker's 64: {OWN_ESTIMATE}",
        "rate": "its maker's lora/train_lora.sh",
        "steps": f"its maker's lora/README.md: 2000; half of it for a subject is {OWN_ESTIMATE}",
        "sides": "its maker's lora/train_lora.sh",
        "multiple": OWN_ESTIMATE,
    },
)
