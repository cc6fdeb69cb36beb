"""Textual Inversion's own settings. It is no method of deft_ops: it trains no layers (trainers/run/token.py)."""

from __future__ import annotations

from dataclasses import dataclass

from ...deft_ops.settings import TRAINING, Number, Text, entry

TEXTUAL_INVERSION = "textual_inversion"


@dataclass(frozen=True)
class TokenSettings:
    """The settings of a token, kept in `Settings.options` as methods' own are. words: what the token starts from."""

    token: str = entry(
        Text(
            at=TRAINING,
            words="The name: embedding:sks-1 in prompts. One word that the text encoder does not know.",
        ),
        "sks-1",
    )
    vectors: int = entry(
        Number(
            at=TRAINING,
            low=1,
            high=64,
            words="Number of vectors of the token: more vectors can learn more. 1 to 8.",
        ),
        1,
    )
    words: str = entry(Text(at=TRAINING, words="Words to start from: the class, such as dog or oil painting."), "")
