"""The texts of a scoring: one for all pictures or one each, without the rare token."""

from __future__ import annotations

import re
from collections.abc import Sequence


def without_token(text: str, token: str) -> str:
    """The text without the rare word, as CLIP-T is usually scored: "a sks dog" -> "a dog"."""
    if not token.strip():
        return text
    return re.sub(rf"\b{re.escape(token.strip())}\s+", "", text)


def first_sentence(text: str) -> str:
    """What stands before the first full stop. Raises ValueError for a text that begins with one."""
    sentence = text.partition(".")[0].strip()
    if not sentence:
        raise ValueError(f"text: nothing stands before the first full stop of {text!r}, and only that is read.")
    return sentence


def split_texts(text: str, batches: Sequence[int]) -> list[str]:
    """One text for all images, or one a line for each image or for each batch: as many texts as images, or none.

    batches: how many images each batch has. Empty lines do not count.
    Raises ValueError that names the counts otherwise.
    """
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    images = sum(batches)
    if len(texts) == 1:
        return texts * images
    if len(texts) in (0, images):
        return texts
    if len(texts) == len(batches):
        return [line for line, count in zip(texts, batches, strict=True) for _ in range(count)]
    several = f" in {len(batches)} batches" if len(batches) > 1 else ""
    raise ValueError(
        f"text: {len(texts)} lines for {images} images{several}; write one line for all of them, or one each."
    )
