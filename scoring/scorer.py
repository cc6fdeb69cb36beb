"""A protocol with its loaded backbones, and the scoring of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .backbones import Backbone, load_backbone
from .embeddings import STORE, FeatureStore, embed_images, embed_texts
from .metrics import OfFeatures, OfPictures, Role
from .packages import MissingPackage
from .pictures import ChosenPictures
from .protocols import Measure, Protocol, get_protocol, those_that
from .scores import Score, Scores
from .texts import first_sentence

_LONGEST = 60  # characters of a text that a remark quotes


@dataclass(frozen=True)
class Scorer:
    """A protocol and its backbones by kind (the DEFT_SCORER socket).

    left_out: why a backbone is not there, by kind. store: where features are kept.
    """

    protocol: Protocol
    backbones: dict[str, Backbone]
    left_out: dict[str, str] = field(default_factory=dict)
    store: FeatureStore = STORE

    def encoders(self, measures: Sequence[Measure]) -> dict[str, Backbone]:
        """The backbones by kind whose features some measures compare."""
        kinds = {measure.backbone.kind for measure in measures if isinstance(measure.comparison, OfFeatures)}
        return {kind: backbone for kind, backbone in self.backbones.items() if kind in kinds}

    def remarks(self, measures: Sequence[Measure]) -> list[str]:
        """A remark for each of some measures that are skipped, or that another backbone makes, with the reason."""
        names = {
            kind: [measure.metric for measure in measures if measure.backbone.kind == kind] for kind in self.left_out
        }
        skipped = [f"{' and '.join(names[kind])} skipped: {why}" for kind, why in self.left_out.items() if names[kind]]
        others = [
            f"{measure.metric} is measured by {measure.backbone.name}: {self.left_out[measure.instead_of.kind]}"
            for measure in measures
            if measure.instead_of is not None
        ]
        return skipped + others


@dataclass(frozen=True)
class Labels:
    """The labels of the scores' row in a table, and the provenance of the pictures, where it is known."""

    label: str = ""
    subject: str = ""
    method: str = ""
    rank: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


EMPTY = Labels()


def load_scorer(
    protocol: str | Protocol,
    folders: Sequence[Path],
    explicit: Mapping[str, Path] | None = None,
    leave_out: bool = False,
    encoder: Backbone | None = None,
) -> Scorer:
    """Load the backbones of a protocol from local files.

    explicit: single files by kind of backbone (clip, dino, dinov2, timm). leave_out: metrics whose weights are missing
    are skipped with a remark. encoder: a loaded image encoder of CLIP's that measures CLIP-I in place of the
    protocol's; CLIP-T is then skipped where the protocol's own CLIP is missing.

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
    return Scorer(protocol.without(left_out), backbones, left_out)


@dataclass(frozen=True)
class Task:
    """The task of a call: to measure the protocol's metrics that compare with one of `roles`, where it is given.

    nothing: the error message where none of them is given. lacking: the error message where the protocol has no metric
    of what is given; {name} and {about} stand for the protocol's, {others} for the protocols that have one.
    """

    roles: tuple[Role, ...]
    nothing: str
    lacking: str


FIDELITY = Task(
    ("references", "text"),
    "there is nothing to score against: connect reference images, or write a text.",
    "the protocol {name} measures nothing of what is connected: {about}.",
)
# What an adapter does to pictures that are not of its subject.
DRIFT = Task(
    ("base", "prior"),
    "there is nothing to compare with: connect the base model's pictures of the same prompts and "
    "seeds (drift), or photos of the subject (prior preservation).",
    "the protocol {name} measures nothing of what is connected; choose {others}.",
)
# How different the pictures of each prompt are, over seeds.
DIVERSITY = Task(("within",), "", "the protocol {name} has no diversity; choose {others}.")

# What remarks call the pictures of a role.
CALLED: dict[Role, str] = {"references": "references", "base": "the base's pictures", "prior": "references"}


def score(
    scorer: Scorer,
    images: Sequence[Image.Image],
    references: Sequence[Image.Image] = (),
    texts: Sequence[str] = (),
    row: Labels = EMPTY,
    progress: Callable[[int], None] = lambda done: None,
    *,
    base: Sequence[Image.Image] = (),
    task: Task = FIDELITY,
    cut_out: Sequence[Image.Image] = (),
    references_cut_out: Sequence[Image.Image] = (),
) -> Scores:
    """Scores of generated RGB pictures, under the scorer's protocol, of what is given for the roles of a task.

    references: photos of the subject, for the roles `references` and `prior`. base: the base model's pictures, for
    `base`. texts: the prompt of each picture, for `text`; `within` compares the pictures of each of them, and without
    them all. cut_out, references_cut_out: the same pictures without background; where they are given, the likeness to
    references is that of these, unless the metric is of whole pictures.

    Raises:
        ValueError: no pictures, nothing to compare them with, a protocol without such metrics, or numbers of pictures
            that a metric's check refuses.
    """
    if not images:
        raise ValueError("images: there are no pictures to score.")
    given: dict[Role, Sequence[Any]] = {
        "references": references,
        "text": texts,
        "base": base,
        "prior": references,
        "within": images,
    }
    roles = [role for role in task.roles if given[role]]
    if not roles:
        raise ValueError(task.nothing)
    measures = scorer.protocol.of(*roles)
    if not measures:
        able = those_that(lambda protocol: protocol.of(*roles))
        raise ValueError(task.lacking.format(name=scorer.protocol.name, about=scorer.protocol.about, others=able))
    groups = _by_text(texts if "within" in roles else (), len(images))
    counts = {role: len(given[role]) for role in roles} | {"within": max(map(len, groups.values())) - 1}
    for measure in measures:
        measure.comparison.check(len(images), counts[measure.comparison.role])
    batch = _Batch(scorer, measures, row, texts, progress)
    cut = [measure for measure in batch.measures if _is_cut(measure)]
    ours_cut = batch.embed(cut_out, "images", cut) if cut_out and cut else None
    ours = batch.embed(images, "images", [measure for measure in batch.measures if not (ours_cut and measure in cut)])
    compared: dict[Role, _Side] = {}
    theirs_cut = batch.embed(references_cut_out, "references", cut) if references_cut_out and cut else None
    for role in roles:
        needed = [
            measure
            for measure in batch.measures
            if measure.comparison.role == role and not (theirs_cut and measure in cut)
        ]
        if role in CALLED and needed:
            compared[role] = batch.embed(given[role], CALLED[role], needed)
    for measure in batch.measures:
        role, backbone = measure.comparison.role, scorer.backbones[measure.backbone.kind]
        if role == "within":
            parts = [(text, ours.part(places)) for text, places in groups.items() if len(places) > 1]
            part_values = [_compared(measure, backbone, part, part) for _, part in parts]
            prompts = [text for (text, _), values in zip(parts, part_values, strict=True) for _ in values]
            batch.add(measure, torch.cat(part_values), 0, prompts)
        elif role != "text":
            mine, others = (ours_cut, theirs_cut) if measure in cut else (None, None)
            values = _compared(measure, backbone, mine or ours, others or compared[role])
            what = " and ".join(name for name, side in (("images", mine), ("references", others)) if side)
            batch.add(measure, values, len(given[role]), texts, f", {what} without background" if what else "")
        elif (read := batch.read(measure)) is not None:
            batch.add(measure, _compared(measure, backbone, ours, read), len(set(texts)), texts)
    return batch.scores()


def _is_cut(measure: Measure) -> bool:
    """Whether a measure is made of pictures without background, where these are given."""
    return measure.comparison.role == "references" and not measure.comparison.whole


def _by_text(texts: Sequence[str], pictures: int) -> dict[str, list[int]]:
    """The places of the pictures by their prompt; without texts all are of one."""
    groups: dict[str, list[int]] = {}
    for place in range(pictures):
        groups.setdefault(texts[place] if texts else "", []).append(place)
    return groups


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: pictures, and the features of these or of texts by kind of backbone."""

    pictures: Sequence[Image.Image]
    features: Mapping[str, torch.Tensor]

    def part(self, places: Sequence[int]) -> _Side:
        """Some of the pictures."""
        return _Side(
            ChosenPictures(self.pictures, places), {kind: values[places] for kind, values in self.features.items()}
        )


def _compared(measure: Measure, backbone: Backbone, ours: _Side, theirs: _Side) -> torch.Tensor:
    """The values of the metric's formula, in float64."""
    comparison = measure.comparison
    if isinstance(comparison, OfPictures):
        return comparison.formula(backbone, ours.pictures, theirs.pictures)
    features = ours.features[backbone.kind].double()
    return comparison.formula(features, features if theirs is ours else theirs.features[backbone.kind].double())


class _Batch:
    """One call of `score`: the measures that there are weights for, and the scores made so far."""

    def __init__(
        self,
        scorer: Scorer,
        measures: Sequence[Measure],
        row: Labels,
        texts: Sequence[str],
        progress: Callable[[int], None],
    ) -> None:
        self.scorer, self.row, self.texts = scorer, row, texts
        self.measures = [measure for measure in measures if measure.backbone.kind in scorer.backbones]
        self.remarks = scorer.remarks(measures)
        self.rows: list[Score] = []
        self.digests: tuple[str, ...] = ()
        self.done, self.progress = 0, progress

    def embed(self, pictures: Sequence[Image.Image], what: str, measures: Sequence[Measure]) -> _Side:
        """The features of these pictures for some measures, with a remark on those of one colour."""
        encoders = self.scorer.encoders(measures)
        before, most = self.done, {kind: backbone.most for kind, backbone in encoders.items()}
        result = embed_images(encoders, pictures, lambda done: self.progress(before + done), self.scorer.store)
        self.remarks += [
            f"{backbone.name}: there was memory for only {backbone.most} of the {what} at once, which takes longer; "
            "scores may differ in the last digits."
            for kind, backbone in encoders.items()
            if backbone.most < most[kind]
        ]
        self.done += len(pictures)
        if what == "images":
            self.digests = result.digests
        if result.flat:
            numbers = ", ".join(str(index) for index in result.flat[:8]) + (", ..." if len(result.flat) > 8 else "")
            self.remarks.append(
                f"{what}: picture {numbers} has one colour only (a failed sampling, or a picture that "
                "was blocked?); its scores mean little."
            )
        return _Side(pictures, result.features)

    def read(self, measure: Measure) -> _Side | None:
        """The features of the texts; says which are cut, and where there is no encoder for them."""
        backbone, truncate = self.scorer.backbones[measure.backbone.kind], self.scorer.protocol.truncate
        if not backbone.reads_text:
            self.remarks.append(f"{measure.metric} skipped: the file of {backbone.name} has no text encoder.")
            return None
        texts: Sequence[str] = self.texts
        if self.scorer.protocol.first_sentence:
            texts = [first_sentence(text) for text in texts]
            if cut := sum(read != text.strip() for read, text in zip(texts, self.texts, strict=True)):
                self.remarks.append(
                    f"{measure.metric} reads each text up to its first full stop; {cut} of {len(texts)} end there."
                )
        for text in dict.fromkeys(texts if truncate else ()):
            if (length := backbone.tokens(text)) > backbone.context:
                short = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
                self.remarks.append(
                    f"text cut: {backbone.name} reads {backbone.context} tokens, this has {length}: {short}"
                )
        return _Side((), {backbone.kind: embed_texts(backbone, texts, truncate, self.scorer.store)})

    def add(
        self, measure: Measure, values: torch.Tensor, references: int, texts: Sequence[str], background: str = ""
    ) -> None:
        """Add one score of float64 values [n]. background: what the preprocessing says of it."""
        backbone, row, protocol = self.scorer.backbones[measure.backbone.kind], self.row, self.scorer.protocol
        if measure.floor is not None:
            values = values.clamp(min=measure.floor)
        scale = measure.scale * (backbone.factor if measure.own_factor else 1.0)
        preprocessing = "as they are" if isinstance(measure.comparison, OfPictures) else str(backbone.preprocess)
        weights: dict[str, Any] = {"versions": versions()}
        if backbone.weights:
            weights |= {"weights": backbone.weights.name, "weights_sha256": backbone.weights.sha256}
        self.rows.append(
            Score(
                measure.metric,
                tuple((values * scale).tolist()),
                row.label,
                row.subject,
                len(self.digests),
                references,
                protocol.name,
                measure.pairing,
                scale,
                backbone.name,
                preprocessing + background,
                tuple(texts),
                self.digests,
                row.method,
                row.rank,
                row.provenance | weights,
            )
        )

    def scores(self) -> Scores:
        """The scores that have been measured. Raises ValueError for none."""
        if not self.rows:
            raise ValueError("nothing could be measured. " + " ".join(self.remarks))
        return Scores(tuple(self.rows), remarks=tuple(self.remarks))


@cache
def versions() -> dict[str, str]:
    """The packages that the numbers depend on."""
    return {name: version(name) for name in ("torch", "torchvision", "timm", "open_clip_torch", "pillow")}
