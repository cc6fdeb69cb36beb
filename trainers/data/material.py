"""The material that a training learns from: as the node gets it, and checked and ready."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..settings.settings import Settings
from . import batches, captions, latents
from .text import TrainedText


@dataclass
class Material:
    """The pictures and captions to learn from. Latents are LATENT dicts of any sizes, captions CONDITIONING lists.

    A LATENT may also have lists `original_sizes` of (width, height) and `crops` of (left, top), one for each picture:
    bases that take these (SDXL) get them, unless the caption has its own. An entry of a CONDITIONING that is a batch
    is one caption a row. What captions carry besides is honoured or refused: see captions.py.

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

    `notes` are short lines on what is used of it beside pictures and texts.

    Raises:
        ValueError: what latents.gather, latents.as_network, captions.gather_conditioning and captions.placed raise;
            caption dropout without an empty caption; texts that are not as many as captions; captions that are all of
            strength 0.
    """

    def __init__(self, model: Any, material: Material, settings: Settings) -> None:
        entries = captions.guided(captions.gather_conditioning(material.captions), settings.guidance)
        trained_entries = list(entries)
        prior: list = []
        self.examples = latents.gather(model, material.latents, len(entries))
        self.words = list(material.words)
        self.prior: list[latents.Example] = []
        if bool(material.prior_latents) != bool(material.prior_captions):
            missing = "latents" if material.prior_captions else "captions"
            raise ValueError(f"Prior preservation needs pictures and captions: connect prior {missing}, or neither.")
        if material.prior_latents:
            prior = captions.gather_conditioning(material.prior_captions, "prior caption")
            prior = captions.guided(prior, settings.guidance)
            prior_examples = latents.gather(model, material.prior_latents, len(prior), "prior pictures")
            self.prior = [replace(example, caption=example.caption + len(entries)) for example in prior_examples]
            entries += prior
        self.empty: int | None = None
        if settings.caption_dropout:
            self.empty = len(entries)
            entries += captions.guided(self.stand_in(material.empty), settings.guidance)
        self.entries = entries
        self.text: TrainedText | None = None
        if material.clip is not None:
            self.text = TrainedText(material.clip, self.words, trained_entries)
        self.examples = self.ready(model, self.examples, "caption", "picture", 0)
        self.prior = self.ready(model, self.prior, "prior caption", "prior picture", len(trained_entries))
        self.notes = captions.notes(material.captions, trained_entries)
        self.notes += captions.notes(material.prior_captions, prior, "prior caption")
        sized = sum(example.origin.size is not None or example.origin.crop is not None for example in self.examples)
        if sized:
            self.notes.append(f"pictures: the base is told the true size of {sized} of {len(self.examples)}")

    def stand_in(self, conditioning: Sequence[list]) -> list:
        """The caption that replaces others, or one for each picture; each example learns its place."""
        empty = captions.gather_conditioning(conditioning, "empty caption")
        if not empty:
            raise ValueError("Caption dropout needs the empty caption: encode an empty text and connect it.")
        captions.check_plain(empty, "empty caption")
        pictures = len(self.examples) + len(self.prior)
        if len(empty) not in (1, pictures):
            raise ValueError(
                f"There are {len(empty)} empty captions for {pictures} pictures: give one for all, or one for each."
            )
        places = iter(range(self.empty or 0, (self.empty or 0) + pictures))
        self.examples, self.prior = (
            [replace(example, empty=next(places) if len(empty) > 1 else self.empty) for example in examples]
            for examples in (self.examples, self.prior)
        )
        return empty

    def ready(
        self, model: Any, examples: Sequence[latents.Example], caption: str, picture: str, first: int
    ) -> list[latents.Example]:
        """Examples as the network sees them, with the areas, masks, levels and weights of their captions. `first`: the
        place of the first caption.
        """
        placed = []
        for place, example in enumerate(examples, 1):
            example = replace(example, latent=latents.as_network(model, example.latent))
            name = f"{caption} {example.caption - first + 1}"
            placed.append(captions.placed(example, self.entries[example.caption], name, f"{picture} {place}"))
        if placed and not any(example.weight for example in placed):
            raise ValueError(f"Every {caption} has strength 0, so nothing would be learned: raise a strength.")
        return placed

    def hash(self) -> str:
        """A hash of all values that the training learns from."""
        return batches.dataset_hash(self.examples, self.prior, self.entries, self.words)

    def sizes(self) -> list[tuple[int, ...]]:
        """The sizes of all latents, without repetition, the largest first."""
        shapes = {tuple(example.latent.shape) for example in [*self.examples, *self.prior]}
        return sorted(shapes, key=math.prod, reverse=True)
