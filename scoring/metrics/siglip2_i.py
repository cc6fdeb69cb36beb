"""SigLIP2-I: mean cosine to the subject's pictures, by SigLIP 2's image encoder."""

from __future__ import annotations

from . import likeness

METRIC = likeness.metric("SigLIP2-I", "likeness to the subject's pictures, by SigLIP 2's image encoder", decides=1)
