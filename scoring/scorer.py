"""A protocol with its loaded backbones, and the scoring of a batch of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from .backbones import Backbone, load_backbone
from .metrics import all_pairs, matched_pairs, text_pairs
from .protocols import Protocol, get_protocol
from .scores import Score, Scores

METRIC_OF = {"clip": "CLIP-I", "dino": "DINO", "dinov2": "DINOv2"}


@dataclass(frozen=True)
class Scorer:
    """A protocol and its backbones by kind (the DEFT_SCORER socket)."""

    protocol: Protocol
    backbones: dict[str, Backbone]


def load_scorer(name: str, folders: Sequence[Path], explicit: Mapping[str, Path] | None = None) -> Scorer:
    """Load the backbones of a protocol from local files; `explicit` gives single files by kind (clip, dino, dinov2)."""
    protocol = get_protocol(name)
    return Scorer(protocol, {kind: load_backbone(spec, folders, (explicit or {}).get(kind))
                             for kind, spec in protocol.backbones.items()})


def split_texts(text: str, images: int) -> list[str]:
    """One text for all images, or one a line for each. Empty lines do not count; no text at all gives [].

    Raises ValueError that names both counts otherwise.
    """
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    if len(texts) not in (0, 1, images):
        raise ValueError(f"text: {len(texts)} lines for {images} images; write one line for all of them, or one each.")
    return texts


def score(scorer: Scorer, images: Sequence[Image.Image], references: Sequence[Image.Image], text: str = "",
          label: str = "", subject: str = "") -> Scores:
    """Scores of generated RGB pictures against references and text, under the scorer's protocol.

    Without references there are only text scores, and without text only image scores.
    Raises ValueError for no pictures and for counts that do not fit the protocol's pairing.
    """
    if not images:
        raise ValueError("images: there are no pictures to score.")
    texts = split_texts(text, len(images))
    if not texts and not references:
        raise ValueError("there is nothing to score against: connect reference images, or write a text.")
    protocol, rows = scorer.protocol, []

    def add(metric: str, values: torch.Tensor, backbone: Backbone, count: int, pairing: str) -> None:
        values = (values.double() * protocol.scale).tolist()
        rows.append(Score(metric, sum(values) / len(values), tuple(values), label, subject,
                          "\n".join(texts) if pairing == "text" else "", len(images), count, protocol.name, pairing,
                          protocol.scale, backbone.name, str(backbone.settings.preprocess)))

    for kind, backbone in scorer.backbones.items():
        features = backbone.encode_images(images)
        if references:
            pair = {"all": all_pairs, "matched": matched_pairs}[protocol.pairing]
            values = pair(features, backbone.encode_images(references))
            add(METRIC_OF[kind], values, backbone, len(references), protocol.pairing)
        if kind == "clip" and texts:
            values = text_pairs(features, backbone.encode_texts(texts, protocol.truncate))
            add("CLIP-T", values, backbone, len(texts), "text")
    return Scores(tuple(rows))
