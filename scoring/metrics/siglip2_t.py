"""SigLIP2-T: cosine of each picture to its text, by SigLIP 2's two encoders."""

from __future__ import annotations

from .base import Metric, OfFeatures
from .clip_t import check_texts
from .likeness import matched_pairs

METRIC = Metric(
    "SigLIP2-T",
    "higher",
    "likeness to the prompt, by SigLIP 2's two encoders",
    (OfFeatures(pairing="text", role="text", check=check_texts, by_place=True, formula=matched_pairs),),
    decides=1,
)
