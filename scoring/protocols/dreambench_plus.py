"""DreamBench++ (yuangpeng/dreambench_plus, metrics/): matched pairs, 100 x cosine, DINO ViT-S/8; long texts fail."""

from __future__ import annotations

from .base import Protocol
from .specs import CLIP_B32, DINO_S8, DINOV2_S14

DREAMBENCH_PLUS = Protocol("dreambench++",
                           "CLIP ViT-B/32, DINO ViT-S/8 and DINOv2; image i with reference i, 0 to 100.",
                           pairing="matched", scale=100.0, truncate=False,
                           clip=CLIP_B32, dino=DINO_S8, dinov2=DINOV2_S14)
