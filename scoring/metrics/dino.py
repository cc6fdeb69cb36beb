"""DINO: mean cosine to the subject's pictures, by DINO's class token."""

from __future__ import annotations

from . import likeness

METRIC = likeness.metric("DINO", "likeness to the subject's pictures, by DINO's class token", decides=5)
