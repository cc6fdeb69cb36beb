"""DreamBooth (arXiv 2208.12242, section 4.1): all pairs, 0..1, DINO ViT-S/16; DINOv2 is an addition.

The paper does not name its CLIP; ViT-B/32 is what later code uses.
"""

from __future__ import annotations

from .base import Protocol
from .specs import CLIP_B32, DINO_S16, DINOV2_S14

DREAMBOOTH = Protocol("dreambooth",
                      "CLIP ViT-B/32, DINO ViT-S/16 and DINOv2; every image with every reference, 0 to 1.",
                      pairing="all", scale=1.0, truncate=True, clip=CLIP_B32, dino=DINO_S16, dinov2=DINOV2_S14)
