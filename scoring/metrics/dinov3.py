"""DINOv3: mean cosine to the subject's pictures, by DINOv3's class token."""

from __future__ import annotations

from . import likeness

METRIC = likeness.metric("DINOv3", "likeness to the subject's pictures, by DINOv3's class token", decides=4)
