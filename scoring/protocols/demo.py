"""The two small scorers that ship with the pack, for its demo. Their numbers compare with no paper's."""

from __future__ import annotations

from ..backbones import BackboneSpec
from .base import Measure, Protocol

_SOURCE = "the file from the pack's own demo/models folder, or make it by demo/recipe/train_scorers.py"
CLIP = BackboneSpec("demo CLIP (64 px)", "clip", ("deft_demo_clip.safetensors",), "4 MB", _SOURCE)
DINO = BackboneSpec("demo DINO (64 px)", "dino", ("deft_demo_dino.safetensors",), "4 MB", _SOURCE)

DEMO = Protocol(
    "demo",
    "the two small scorers that come with the pack, for its demo only; every image with every reference",
    (
        Measure("CLIP-I", CLIP, "all"),
        Measure("CLIP-T", CLIP, "text"),
        Measure("DINO", DINO, "all"),
        Measure("drift", DINO, "base"),
        Measure("PRES", DINO, "prior"),
        Measure("diversity", DINO, "within"),
    ),
)
