"""What a training learns from: what the node is given, and the same checked and ready."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import data
from .settings import Settings
from .text import Text


@dataclass
class Material:
    """What there is to learn from. Latents are LATENT dicts of any sizes, captions CONDITIONING lists.

    prior: latents and captions of the subject's class, for prior preservation (DreamBooth, arXiv 2208.12242, equation
    2). empty: the caption that replaces others under caption dropout. clip and words: to train text encoders as well.
    """

    latents: Sequence[dict[str, Any]]
    captions: Sequence[list]
    prior_latents: Sequence[dict[str, Any]] = ()
    prior_captions: Sequence[list] = ()
    empty: Sequence[list] = ()
    clip: Any = None
    words: Sequence[str] = ()


class Dataset:
    """The material of a run, checked and as the network sees it: examples, captions, the place of the empty caption.

    Raises:
        ValueError: what data.gather and data.as_network raise; caption dropout without an empty caption; texts that are
            not as many as captions.
    """

    def __init__(self, model: Any, material: Material, settings: Settings) -> None:
        entries = data.gather_conditioning(material.captions)
        self.examples = data.gather(material.latents, len(entries))
        self.words = list(material.words)
        self.prior: list[data.Example] = []
        if bool(material.prior_latents) != bool(material.prior_captions):
            missing = "latents" if material.prior_captions else "captions"
            raise ValueError(f"Prior preservation needs pictures and captions: connect prior {missing}, or neither.")
        if material.prior_latents:
            prior = data.gather_conditioning(material.prior_captions)
            found = data.gather(material.prior_latents, len(prior), "prior pictures")
            self.prior = [replace(example, caption=example.caption + len(entries)) for example in found]
            entries += prior
        self.empty: int | None = None
        if settings.caption_dropout:
            empty = data.gather_conditioning(material.empty)
            if len(empty) != 1:
                raise ValueError("Caption dropout needs the empty caption: encode an empty text and connect it.")
            self.empty = len(entries)
            entries += empty
        self.entries = entries
        self.text: Text | None = None
        if material.clip is not None:
            self.text = Text(material.clip, self.words, data.gather_conditioning(material.captions))
        self.examples, self.prior = (
            [replace(example, latent=data.as_network(model, example.latent)) for example in examples]
            for examples in (self.examples, self.prior)
        )

    def hash(self) -> str:
        """Of all values."""
        return data.dataset_hash(self.examples, self.prior, self.entries, self.words)

    def sizes(self) -> list[tuple[int, ...]]:
        """Of all latents, without repetition, the largest first."""
        shapes = {tuple(example.latent.shape) for example in [*self.examples, *self.prior]}
        return sorted(shapes, key=math.prod, reverse=True)
