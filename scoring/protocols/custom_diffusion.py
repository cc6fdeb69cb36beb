"""Custom Diffusion (arXiv 2212.04488; customconcept101/evaluate.py): CLIP-T is CLIPScore, 2.5 x max(cosine, 0).

Image scores are plain cosines of all pairs. The code prepares pictures with torchvision and cuts long texts. On a GPU
it computes CLIP in half precision; here it is float32.
"""

from __future__ import annotations

from .base import Measure, Protocol
from .specs import CLIP_B32_TORCHVISION, DINO_S16

CUSTOM_DIFFUSION = Protocol(
    "custom-diffusion",
    "CLIP ViT-B/32 with CLIP-T as CLIPScore (2.5 x, never negative), DINO ViT-S/16; all pairs",
    (
        Measure("CLIP-I", CLIP_B32_TORCHVISION, "all"),
        Measure("CLIP-T", CLIP_B32_TORCHVISION, "text", 2.5, floor=0.0),
        Measure("DINO", DINO_S16, "all"),
    ),
)
