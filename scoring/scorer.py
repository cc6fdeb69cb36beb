"""A protocol with its loaded backbones, and the scoring of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .backbones import Backbone, load_backbone
from .backbones.lpips import Lpips
from .embeddings import STORE, FeatureStore, embed_images, embed_texts
from .metrics import all_pairs, check_drift, check_matched, distances_within, drift, matched_pairs, text_pairs
from .packages import MissingPackage
from .protocols import Measure, Protocol, get_protocol
from .scores import Score, Scores

LONGEST = 60  # characters of a text that a remark quotes


@dataclass(frozen=True)
class Scorer:
    """A protocol and its backbones by kind (the DEFT_SCORER socket).

    left_out: why a backbone is not there, by kind. store: where features are kept.
    """

    protocol: Protocol
    backbones: dict[str, Backbone]
    left_out: dict[str, str] = field(default_factory=dict)
    store: FeatureStore = STORE

    def remarks(self, measures: Sequence[Measure]) -> list[str]:
        """Which of some measures are left out, and why."""
        names = {kind: [measure.metric for measure in measures if measure.backbone.kind == kind]
                 for kind in self.left_out}
        return [f"{' and '.join(names[kind])} left out: {why}" for kind, why in self.left_out.items() if names[kind]]


@dataclass(frozen=True)
class Row:
    """Which row of a table the scores are for, and what is known of how the pictures were made."""

    label: str = ""
    subject: str = ""
    method: str = ""
    rank: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


EMPTY = Row()


def load_scorer(protocol: str | Protocol, folders: Sequence[Path], explicit: Mapping[str, Path] | None = None,
                leave_out: bool = False, encoder: Backbone | None = None) -> Scorer:
    """Load the backbones of a protocol from local files.

    explicit: single files by kind of backbone (clip, dino, dinov2, timm). leave_out: metrics whose weights are missing
    are left out with a remark. encoder: a loaded image encoder of CLIP's that measures CLIP-I in place of the
    protocol's; CLIP-T is then left out where the protocol's own CLIP is not there.

    Raises:
        FileNotFoundError: weights that are needed are missing.
        MissingPackage: a package that is needed is not installed.
        ValueError: a file of another model, or nothing left to measure.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    backbones: dict[str, Backbone] = {}
    if encoder is not None:
        protocol = protocol.with_clip_encoder(encoder.name, encoder.kind)
        backbones[encoder.kind] = encoder
    left_out: dict[str, str] = {}
    for kind, spec in protocol.backbones.items():
        if kind in backbones:
            continue
        try:
            backbones[kind] = load_backbone(spec, folders, (explicit or {}).get(kind))
        except (FileNotFoundError, MissingPackage) as error:
            if protocol.needs(kind) and not leave_out:
                raise
            left_out[kind] = str(error)
    if not backbones:
        raise ValueError(f"the protocol {protocol.name} has no weights to measure with. " + " ".join(left_out.values()))
    return Scorer(protocol, backbones, left_out)


def score(scorer: Scorer, images: Sequence[Image.Image], references: Sequence[Image.Image] = (),
          texts: Sequence[str] = (), row: Row = EMPTY, progress: Callable[[int], None] = lambda done: None) -> Scores:
    """Scores of generated RGB pictures against references and texts (one each), under the scorer's protocol.

    Without references there are only text scores, and without texts only image scores.
    Raises ValueError for no pictures and for counts that do not fit the protocol's pairing.
    """
    if not images:
        raise ValueError("images: there are no pictures to score.")
    if not texts and not references:
        raise ValueError("there is nothing to score against: connect reference images, or write a text.")
    measures = [measure for measure in scorer.protocol.of("all", "matched", "text")
                if (texts if measure.pairing == "text" else references)]
    if not measures:
        raise ValueError(f"the protocol {scorer.protocol.name} measures nothing of what is connected: "
                         f"{scorer.protocol.about}.")
    if any(measure.pairing == "matched" for measure in measures):
        check_matched(len(images), len(references))
    batch = _Batch(scorer, measures, row, texts, progress)
    features = batch.embed(images, "images")
    real = batch.embed(references, "references") if references else {}
    for measure in batch.measures:
        kind = measure.backbone.kind
        if measure.pairing == "text":
            batch.add_text(measure, features[kind])
        else:
            pair = all_pairs if measure.pairing == "all" else matched_pairs
            batch.add(measure, pair(features[kind].double(), real[kind].double()), len(references))
    return batch.scores()


def score_drift(scorer: Scorer, images: Sequence[Image.Image], base: Sequence[Image.Image] = (),
                references: Sequence[Image.Image] = (), texts: Sequence[str] = (), row: Row = EMPTY,
                progress: Callable[[int], None] = lambda done: None) -> Scores:
    """What an adapter does to pictures that are not of its subject.

    images: of unrelated prompts (drift) or of other members of the class (prior preservation), with the adapter.
    base: the same prompts and seeds without it, for drift. references: photos of the subject, for PRES.
    Raises ValueError for nothing to compare with, other counts, and a protocol without these metrics.
    """
    if not images:
        raise ValueError("images: there are no pictures to score.")
    if not base and not references:
        raise ValueError("there is nothing to compare with: connect the base model's pictures of the same prompts and "
                         "seeds (drift), or photos of the subject (prior preservation).")
    measures = [measure for measure in scorer.protocol.of("base", "prior")
                if (base if measure.pairing == "base" else references)]
    if not measures:
        raise ValueError(f"the protocol {scorer.protocol.name} measures nothing of what is connected; choose "
                         "dreambooth, demo or custom, or peft for drift alone.")
    if base:
        check_drift(len(images), len(base))
    batch = _Batch(scorer, measures, row, texts, progress)
    features = batch.embed(images, "images")
    others = {"base": batch.embed(base, "the base's pictures") if base else {},
              "prior": batch.embed(references, "references") if references else {}}
    for measure in batch.measures:
        kind = measure.backbone.kind
        ours, other = features[kind].double(), others[measure.pairing][kind].double()
        batch.add(measure, drift(ours, other) if measure.pairing == "base" else all_pairs(ours, other), len(other))
    return batch.scores()


def score_diversity(scorer: Scorer, images: Sequence[Image.Image], texts: Sequence[str] = (), row: Row = EMPTY,
                    progress: Callable[[int], None] = lambda done: None) -> Scores:
    """Mean distance between the pictures of each prompt, over seeds: one value a pair.

    texts: the prompt of each picture; none: all are of one. Raises ValueError where no prompt has two pictures, and for
    a protocol without these metrics.
    """
    measures = scorer.protocol.of("within")
    if not measures:
        raise ValueError(f"the protocol {scorer.protocol.name} has no diversity; choose dreambooth, demo or custom.")
    groups: dict[str, list[int]] = {}
    for index in range(len(images)):
        groups.setdefault(texts[index] if texts else "", []).append(index)
    groups = {text: places for text, places in groups.items() if len(places) > 1}
    if not groups:
        raise ValueError("diversity compares pictures of one prompt with each other, but no prompt has two; sample "
                         "several seeds of each prompt.")
    batch = _Batch(scorer, measures, row, texts, progress)
    features = batch.embed(images, "images")
    for measure in batch.measures:
        backbone = scorer.backbones[measure.backbone.kind]
        values: list[float] = []
        prompts: list[str] = []
        for text, places in groups.items():
            if isinstance(backbone, Lpips):
                found = [backbone.distance(images[a], images[b]) for a, b in combinations(places, 2)]
            else:
                found = distances_within(features[measure.backbone.kind][places].double()).tolist()
            values += found
            prompts += [text] * len(found)
        batch.add(measure, torch.tensor(values, dtype=torch.float64), 0, prompts)
    return batch.scores()


class _Batch:
    """One call of a scoring function: the measures that there are weights for, and the scores made so far."""

    def __init__(self, scorer: Scorer, measures: Sequence[Measure], row: Row, texts: Sequence[str],
                 progress: Callable[[int], None]) -> None:
        self.scorer, self.row, self.texts = scorer, row, tuple(texts)
        self.measures = [measure for measure in measures if measure.backbone.kind in scorer.backbones]
        self.remarks = scorer.remarks(measures)
        self.rows: list[Score] = []
        self.digests: tuple[str, ...] = ()
        self.done, self.progress = 0, progress

    def embed(self, pictures: Sequence[Image.Image], what: str) -> dict[str, torch.Tensor]:
        """Features by kind of backbone, with a remark on pictures of one colour. The first call is of the images."""
        kinds = {measure.backbone.kind for measure in self.measures}
        encoders = {kind: backbone for kind, backbone in self.scorer.backbones.items()
                    if kind in kinds and not isinstance(backbone, Lpips)}
        before = self.done
        result = embed_images(encoders, pictures, lambda done: self.progress(before + done), self.scorer.store)
        self.done += len(pictures)
        self.digests = self.digests or result.digests
        if result.flat:
            numbers = ", ".join(str(index) for index in result.flat[:8]) + (", ..." if len(result.flat) > 8 else "")
            self.remarks.append(f"{what}: picture {numbers} has one colour only (a failed sampling, or a picture that "
                                "was blocked?); its scores mean little.")
        return result.features

    def add_text(self, measure: Measure, features: torch.Tensor) -> None:
        """Likeness to the texts; says which are cut."""
        backbone, truncate = self.scorer.backbones[measure.backbone.kind], self.scorer.protocol.truncate
        if not backbone.reads_text:
            self.remarks.append(f"{measure.metric} left out: the file of {backbone.name} has no text encoder.")
            return
        for text in dict.fromkeys(self.texts if truncate else ()):
            if (length := backbone.tokens(text)) > backbone.context:
                short = text if len(text) <= LONGEST else text[:LONGEST] + "..."
                self.remarks.append(f"text cut: {backbone.name} reads {backbone.context} tokens, this has {length}: "
                                    f"{short}")
        texts = embed_texts(backbone, self.texts, truncate, self.scorer.store)
        self.add(measure, text_pairs(features.double(), texts.double()), len(set(self.texts)))

    def add(self, measure: Measure, values: torch.Tensor, references: int, texts: Sequence[str] | None = None) -> None:
        """One score of float64 values [n]."""
        backbone, row, protocol = self.scorer.backbones[measure.backbone.kind], self.row, self.scorer.protocol
        if measure.floor is not None:
            values = values.clamp(min=measure.floor)
        preprocessing = "as they are" if isinstance(backbone, Lpips) else str(backbone.preprocess)
        weights: dict[str, Any] = {"versions": versions()}
        if backbone.weights:
            weights |= {"weights": backbone.weights.name, "weights_sha256": backbone.weights.sha256}
        self.rows.append(Score(
            measure.metric, tuple((values * measure.scale).tolist()), row.label, row.subject, len(self.digests),
            references, protocol.name, measure.pairing, measure.scale, backbone.name, preprocessing,
            tuple(self.texts if texts is None else texts), self.digests, row.method, row.rank,
            row.provenance | weights))

    def scores(self) -> Scores:
        """What has been measured. Raises ValueError for nothing."""
        if not self.rows:
            raise ValueError("nothing could be measured. " + " ".join(self.remarks))
        return Scores(tuple(self.rows), remarks=tuple(self.remarks))


@cache
def versions() -> dict[str, str]:
    """The packages that the numbers depend on."""
    return {name: version(name) for name in ("torch", "torchvision", "timm", "open_clip_torch", "pillow")}
