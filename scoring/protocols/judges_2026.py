"""Judges of 2026: DINOv3, SigLIP2, DreamSim, PickScore, and whether a picture copies a photo of the training.

No paper has this protocol; each judge is used as its authors' code does. DreamSim and PickScore are skipped without
their weights. Without SSCD the nearest photo is searched by DINOv3's features.
"""

from __future__ import annotations

from .base import Measure, Protocol
from .specs import DINOV3_B16, DREAMSIM, PICKSCORE, SIGLIP2_B16, SSCD

JUDGES_2026 = Protocol(
    "2026",
    "DINOv3 ViT-B/16, SigLIP2 ViT-B/16, DreamSim, PickScore, and copies of photos by SSCD; every image with every "
    "reference",
    (
        Measure("DINOv3", DINOV3_B16, "all"),
        Measure("SigLIP2-I", SIGLIP2_B16, "all"),
        Measure("SigLIP2-T", SIGLIP2_B16, "text"),
        Measure("DreamSim", DREAMSIM, "all", optional=True),
        Measure("PickScore", PICKSCORE, "text", own_factor=True, optional=True),
        Measure("copy", SSCD, "nearest", optional=True, otherwise=DINOV3_B16),
        Measure("drift", DINOV3_B16, "base"),
        Measure("PRES", DINOV3_B16, "prior"),
        Measure("diversity", DINOV3_B16, "within"),
    ),
)
