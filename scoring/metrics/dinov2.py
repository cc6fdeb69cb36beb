"""DINOv2: mean cosine to the subject's pictures, by DINOv2's class token."""

from __future__ import annotations

from . import likeness

METRIC = likeness.metric("DINOv2", "likeness to the subject's pictures, by DINOv2's class token", decides=3)
