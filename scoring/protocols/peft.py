"""PEFT's image generation benchmark (method_comparison/image-gen): DINOv2-base, matched pairs, and drift.

There each picture is made from the caption of a photo that was held out and compared with that photo; drift is
(1 - cosine) / 2 between pictures of unrelated prompts with and without the adapter, from the same noise.
"""

from __future__ import annotations

from .base import Measure, Protocol
from .specs import DINOV2_B14

PEFT = Protocol(
    "peft",
    "DINOv2-base; image i with photo i, 0 to 1; drift of unrelated prompts",
    (Measure("DINOv2", DINOV2_B14, "matched"), Measure("drift", DINOV2_B14, "base")),
)
