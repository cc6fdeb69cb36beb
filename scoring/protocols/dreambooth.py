"""DreamBooth (arXiv 2208.12242, sections 4.1 and 4.3): all pairs, 0 to 1, DINO ViT-S/16, PRES and DIV.

The paper does not name its CLIP; ViT-B/32 is what later code uses. DINOv2, drift and the diversity of features are
additions of this pack. DIV is the mean LPIPS between pictures of one subject and prompt; the paper does not name its
network, AlexNet is the default of LPIPS' authors.
"""

from __future__ import annotations

from .base import Measure, Protocol
from .specs import ALEXNET, CLIP_B32, DINO_S16, DINOV2_S14

DREAMBOOTH = Protocol(
    "dreambooth",
    "CLIP ViT-B/32, DINO ViT-S/16 and DINOv2-small; every image with every reference, 0 to 1",
    (
        Measure("CLIP-I", CLIP_B32, "all"),
        Measure("CLIP-T", CLIP_B32, "text"),
        Measure("DINO", DINO_S16, "all"),
        Measure("DINOv2", DINOV2_S14, "all"),
        Measure("drift", DINOV2_S14, "base"),
        Measure("PRES", DINO_S16, "prior"),
        Measure("DIV", ALEXNET, "within", optional=True),
        Measure("diversity", DINO_S16, "within"),
    ),
)
