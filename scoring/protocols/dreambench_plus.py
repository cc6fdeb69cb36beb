"""DreamBench++ (arXiv 2406.16855; yuangpeng/dreambench_plus, metrics/): matched pairs, 100 x cosine, DINO ViT-S/8.

The DEFT paper's tables on DreamBench++ (table 2 of its supplement) use it. Long texts are an error there and here.
"""

from __future__ import annotations

from .base import Measure, Protocol
from .specs import CLIP_B32, DINO_S8, DINOV2_S14

DREAMBENCH_PLUS = Protocol(
    "dreambench++",
    "CLIP ViT-B/32, DINO ViT-S/8 and DINOv2-small; image i with reference i, 0 to 100",
    (
        Measure("CLIP-I", CLIP_B32, "matched", 100.0),
        Measure("CLIP-T", CLIP_B32, "text", 100.0),
        Measure("DINO", DINO_S8, "matched", 100.0),
        Measure("DINOv2", DINOV2_S14, "matched", 100.0),
    ),
    truncate=False,
)
