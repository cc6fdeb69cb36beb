"""DreamBench++ (arXiv 2406.16855; yuangpeng/dreambench_plus, metrics/): matched pairs, 100 x cosine, DINO ViT-S/8.

Long texts are an error there and here. The DEFT paper's tables on DreamBench++ (table 2 of its supplement) use it with
a change in CLIP-T: MAXNORM8650/DEFT, dreambench_plus/dreambench_plus/metrics/clip_score.py, reads `text.split(".")[0]`.
It also takes the marks of OmniGen's pictures out of the text, which prompts for other models do not have.
"""

from __future__ import annotations

from dataclasses import replace

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
DREAMBENCH_PLUS_DEFT = replace(
    DREAMBENCH_PLUS,
    name="dreambench++-deft",
    about="dreambench++ as in the DEFT authors' repository: CLIP-T reads a text up to its first full stop",
    first_sentence=True,
)
