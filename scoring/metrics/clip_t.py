"""CLIP-T: cosine of each picture to its text, by CLIP's two encoders."""

from __future__ import annotations

from .base import Metric, OfFeatures
from .likeness import matched_pairs


def check_texts(images: int, texts: int) -> None:
    """Raises ValueError where picture i has no text i; one text serves all."""
    if texts not in (1, images):
        raise ValueError(
            f"there are {texts} texts for {images} images; give one text for all, or one a line for each image."
        )


METRIC = Metric(
    "CLIP-T",
    "higher",
    "likeness to the prompt, by CLIP's two encoders",
    (OfFeatures(pairing="text", role="text", check=check_texts, by_place=True, formula=matched_pairs),),
    decides=2,
)
