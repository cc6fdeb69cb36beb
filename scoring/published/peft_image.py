"""PEFT's image generation benchmark: the methods of it that this pack trains."""

from __future__ import annotations

from .base import PublishedTable

PEFT_IMAGE = PublishedTable(
    name="PEFT, image generation",
    source="PEFT (huggingface/peft, method_comparison/image-gen/results, as of August 2026): FLUX.2 klein base 4B, one "
    "subject (a cat plush), 750 steps, one seed; cosine of DINOv2-base to the held-out photo, 4 prompts x 3 pictures, "
    "and drift over 10 prompts",
    protocol="peft",
    scale=1.0,
    metrics=("DINOv2", "drift"),
    values={
        ("DEFT", 32, ""): {"DINOv2": 0.7088, "drift": 0.2768},
        ("PaRa", 32, ""): {"DINOv2": 0.6892, "drift": 0.2870},
        ("LoRA", 32, ""): {"DINOv2": 0.6972, "drift": 0.2620},
        ("LoRA", 64, ""): {"DINOv2": 0.7431, "drift": 0.2877},
        ("DoRA", 64, ""): {"DINOv2": 0.6680, "drift": 0.2745},
        ("LoHa", 32, ""): {"DINOv2": 0.6618, "drift": 0.2603},
        ("LoKr", 32, ""): {"DINOv2": 0.6974, "drift": 0.2680},
        ("OFT", None, ""): {"DINOv2": 0.7078, "drift": 0.2619},
        ("IA3", None, ""): {"DINOv2": 0.6477, "drift": 0.2295},
    },
    oddities=(
        "Each number is of one training with one seed and 12 pictures; no interval can be given for it.",
        "The runs are of June to August 2026, and of several versions of PEFT.",
        "LoKr and IA3 have a learning rate of 1e-3, the others of 1e-4; OFT has blocks of 32.",
        "DEFT and PaRa decompose by QR.",
    ),
)
