"""CLIP-I: mean cosine to the subject's pictures, by CLIP's image encoder."""

from __future__ import annotations

from . import likeness

METRIC = likeness.metric("CLIP-I", "likeness to the subject's pictures, by CLIP's image encoder", decides=2)
