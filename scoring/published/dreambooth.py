"""DreamBooth's Table 1: the baselines of subject fidelity, means over 30 subjects."""

from __future__ import annotations

from .base import PublishedTable

DREAMBOOTH_BASELINES = PublishedTable(
    name="DreamBooth, Table 1",
    source="DreamBooth (arXiv 2208.12242), Table 1: means over 30 subjects with 25 prompts and 4 pictures each, cosine "
    "from 0 to 1",
    protocol="dreambooth",
    scale=1.0,
    metrics=("DINO", "CLIP-I", "CLIP-T"),
    values={
        ("Real images", None, ""): {"DINO": 0.774, "CLIP-I": 0.885},
        ("DreamBooth (Imagen)", None, ""): {"DINO": 0.696, "CLIP-I": 0.812, "CLIP-T": 0.306},
        ("DreamBooth (SD)", None, ""): {"DINO": 0.668, "CLIP-I": 0.803, "CLIP-T": 0.305},
        ("Textual Inversion (SD)", None, ""): {"DINO": 0.569, "CLIP-I": 0.780, "CLIP-T": 0.255},
    },
    oddities=(
        "The paper does not name its CLIP; ViT-B/32 is what later code uses.",
        "The paper does not say whether the rare token is in the texts of CLIP-T.",
        "Real images compares a subject's pictures with each other; pairs of a picture with itself raise the number, "
        "so leave them out.",
        "The numbers are means over all 30 subjects; of fewer subjects they differ by which ones are taken.",
    ),
)
