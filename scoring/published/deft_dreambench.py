"""DEFT's supplement, Table 2: DreamBench++ subjects on SDXL."""

from __future__ import annotations

from .base import PublishedTable

_METRICS = ("DINO", "DINOv2", "CLIP-I", "CLIP-T")
_ROWS = {
    ("DEFT", "Kitten"): (79.9416, 73.5553, 83.5867, 35.5409),
    ("DEFT", "Stork"): (67.9085, 62.7926, 76.3276, 36.8799),
    ("DEFT", "Kitten 2"): (77.8501, 65.0358, 77.6003, 36.7579),
    ("DEFT", "HORSE"): (77.8501, 65.0358, 77.6003, 36.7579),
    ("LoRA", "Kitten"): (82.9492, 77.9071, 86.7823, 33.7977),
    ("LoRA", "Stork"): (70.1220, 61.8301, 74.9231, 36.9636),
    ("LoRA", "Kitten 2"): (83.5538, 72.2653, 81.3446, 34.1923),
    ("LoRA", "HORSE"): (83.5538, 72.2653, 81.3446, 34.1923),
}

DEFT_DREAMBENCH = PublishedTable(
    name="DEFT supplement, Table 2",
    source="supplement of DEFT (arXiv 2509.22793), Table 2: DreamBench++ subjects on SDXL, 100 x cosine; its DINOv1 is "
    "called DINO here",
    protocol="dreambench++",
    scale=100.0,
    metrics=_METRICS,
    values={(method, None, subject): dict(zip(_METRICS, values)) for (method, subject), values in _ROWS.items()},
    oddities=(
        "The rows of Kitten 2 and HORSE are identical in all four metrics for both methods: one of them is a copy.",
        "The text sets LoRA's 83.5538 and 72.2653 beside DEFT's 79.9416 and 65.0358 as Kitten; these are of the rows "
        "Kitten and Kitten 2, mixed.",
        "The text says that DEFT beats LoRA in CLIP-I on Kitten (83.5867 and 81.3446); 81.3446 is of Kitten 2, and "
        "LoRA's row of Kitten has 86.7823.",
        "The text says that LoRA's DINO is always higher; for DINOv2 of Stork it is not.",
        "The text says that DEFT excels in CLIP-I and CLIP-T; its CLIP-I is the higher one for Stork only, and its "
        "CLIP-T is not for Stork.",
        "The authors' code scores CLIP-T against the text before the first full stop only, as the protocol "
        "dreambench++-deft does; dreambench++ reads the whole text.",
        "The authors' code finds a subject's files by a part of their names, so that kitten finds the pictures of both "
        "kittens.",
        "The table states no rank: a measured row of any rank is set beside it.",
        "The scale is 100 times that of Table 1.",
    ),
    also=("dreambench++-deft",),
)
