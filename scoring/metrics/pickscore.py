"""PickScore (arXiv 2305.01569): which pictures people prefer for a prompt."""

from __future__ import annotations

from .base import Metric, OfFeatures
from .clip_t import check_texts
from .likeness import matched_pairs

METRIC = Metric(
    "PickScore",
    "higher",
    "how much people are likely to prefer the picture for its prompt",
    (OfFeatures(pairing="text", role="text", check=check_texts, by_place=True, formula=matched_pairs),),
    decides=None,  # what people like is more than whether the prompt is followed
)
