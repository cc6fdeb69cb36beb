"""CLIP-I alone, as in table 1 of the DEFT paper's supplement ("CLIP-image", 0 to 1).

No public script computes that table: which CLIP, which references and how many pictures is not known. ViT-B/32 and
all pairs are what the authors' other scripts use.
"""

from __future__ import annotations

from .base import Measure, Protocol
from .specs import CLIP_B32

CLIP_IMAGE = Protocol(
    "clip-image",
    "CLIP ViT-B/32 image similarity alone; every image with every reference, 0 to 1",
    (Measure("CLIP-I", CLIP_B32, "all"),),
)
