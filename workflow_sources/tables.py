"""The two tables of the DEFT paper's supplement as workflows: what makes one out of its subjects and methods.

The tables themselves are in examples/deft_table1 and deft_table2; what they do, what they need and why they are as they
are is in docs/tables.md.

A node's id says where it stands: below 1000 what all subjects share, then a thousand for each subject and the last one
for the table; within a subject ten for each line (its pictures and prompts, a line a method, the grid).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .prompt import ROOT, SETTINGS, Connection, PromptBuilder
from .scorers import WEIGHTS

PLANS = ROOT / "sweeps" / "plans"


def table_rows(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of sweeps/plans."""
    with open(PLANS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# More inputs of Score Table, for all workflows; {number} is filled in. All readings of a table add to one file.
EXTRA: dict[str, str] = {
    "rows": "method x subject",
    "append_to": "deft_table{number}/all_scores",
    "published": "DEFT supplement, Table {number}",
}

SEED = 42
PAPER_LAYERS = "paper (to_q, to_k, to_v, to_out.0)"


# DreamBooth's subjects and prompts, as the sweeps have them.
SUBJECTS = {row["name"]: row for row in table_rows("dreambooth_subjects.csv")}
PROMPTS = {
    kind: [
        row["prompt"].replace("%token% %class%", "{}")
        for row in table_rows("dreambooth_prompts.csv")
        if row["kind"] == kind
    ]
    for kind in ("object", "live")
}


@dataclass(frozen=True)
class TableMethod:
    """A row of a table: its name, the training node's inputs, and what differs from SETTINGS.

    prior: with pictures of the class, made by the base model. inversion: trained by Train Textual Inversion.
    """

    label: str
    training: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: bool = False
    inversion: bool = False

    @property
    def name(self) -> str:
        """The label for file names."""
        return self.label.replace(" ", "_")


@dataclass(frozen=True)
class TableSubject:
    """A subject. name: in the table. folder: below ComfyUI's input folder. kind: the class word.

    captions: the text of DreamBench++ that picture and prompts come from, in place of folder and prompts.
    """

    name: str
    folder: str
    kind: str
    prompts: list[str]
    captions: str = ""

    @property
    def id(self) -> str:
        """The name for file names. Without a space's "_": ComfyUI would take kitten_2 for the second file of kitten."""
        return self.name.replace(" ", "")


@dataclass(frozen=True)
class PaperTable:
    """A table's workflow. batch: pictures of a sampling; one of each is shown in the grid, which is shrunk by `shrink`.

    noises: 0 where every prompt begins with the seed's first noise; else how many pictures of a subject are sampled
    from the noise that one generator draws one after the other, `batch` of them at a time. through: it draws on from
    subject to subject.
    reading: what another reading of the same table is called in the names of files. behind: what stands behind the
    labels of its scores. trained: the workflow whose trainings it has.
    """

    number: int
    title: str
    checkpoint: str
    side: int
    token: str
    caption: str
    protocol: str
    batch: int
    sampling: Mapping[str, Any]
    subjects: list[TableSubject]
    methods: list[TableMethod]
    shrink: float
    noises: int = 0
    through: bool = False
    reading: str = ""
    behind: str = ""
    trained: str = ""

    @property
    def name(self) -> str:
        """The workflow's file, and the folder of all that it writes but trainings of another's."""
        return "_".join(filter(None, (f"deft_table{self.number}", self.reading)))

    @property
    def trainings(self) -> str:
        """The folder of its trainings and adapters."""
        return self.trained or self.name


def method(kind: str, **options: Any) -> dict[str, Any]:
    """The dynamic widget `method` of Train Adapter."""
    return {"method": kind} | {f"method.{name}": value for name, value in options.items()}


def low_rank(kind: str, rank: int) -> dict[str, Any]:
    """The method inputs of DEFT by QR of random matrices (the authors' deftQR and --ortho=True), PaRa or LoRA."""
    options: dict[str, dict[str, Any]] = {
        "deft": {"alpha": 0.0, "projector": "qr", "start": "paper"},
        "para": {"rank_cap": 0.0},
        "lora": {"alpha": 0.0},
    }
    return method(kind, rank=rank, **options[kind])


def training(steps: int, rate: float, layers: str, precision: str = "auto", checkpointing: bool = False) -> dict:
    """The other widgets of Train Adapter."""
    return {
        "steps": steps,
        "learning_rate": rate,
        "batch_size": 1,
        "layers": layers,
        "pattern": "",
        "seed": SEED,
        "precision": precision,
        "gradient_checkpointing": checkpointing,
    }


@dataclass(frozen=True)
class Shared:
    """The outputs that all subjects use. settings: by the row's label."""

    model: Connection
    clip: Connection
    vae: Connection
    empty: Connection
    latent: Connection
    scorer: Connection
    settings: dict[str, Connection]
    class_latents: Connection | None


def make(table: PaperTable) -> PromptBuilder:
    """The whole workflow."""
    prompt = PromptBuilder()
    shared = add_shared(prompt, table)
    scores = [
        link
        for number, subject in enumerate(table.subjects, 1)
        for link in add_subject(prompt, table, shared, subject, 1000 * number)
    ]
    extra = {name: text.format(number=table.number) for name, text in EXTRA.items()}
    prompt.add(
        1000 * (len(table.subjects) + 1),
        "DEFTScoreTable",
        "The table",
        {
            **{f"scores.scores{place}": link for place, link in enumerate(scores)},
            "title": table.title,
            "filename_prefix": f"{table.name}/scores",
            **extra,
        },
    )
    return prompt


def add_shared(prompt: PromptBuilder, table: PaperTable) -> Shared:
    """Add the model, scorer, latents, and the settings of each method."""
    model = prompt.add(1, "CheckpointLoaderSimple", "Base model", {"ckpt_name": table.checkpoint})
    clip, vae = [model[0], 1], [model[0], 2]
    empty = prompt.add(2, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    size = {"width": table.side, "height": table.side}
    count = (table.noises or table.batch) * (len(table.subjects) if table.through else 1)
    latent = prompt.add(
        3,
        "EmptyLatentImage",
        f"{count} {'in all' if table.through else 'of each prompt'}, {table.side} x {table.side}",
        size | {"batch_size": count},
    )
    if table.noises and not table.through:
        latent = prompt.add(
            7, "RebatchLatents", f"{table.batch} at a time", {"latents": latent, "batch_size": table.batch}
        )
    scorer = prompt.add(
        4,
        "DEFTLoadScorer",
        "Scorer",
        {
            "protocol": table.protocol,
            **WEIGHTS[table.protocol],
        },
    )
    class_latents = None
    if any(row.prior for row in table.methods):
        whole = prompt.add(5, "EmptyLatentImage", "200 pictures of a class", size | {"batch_size": 200})
        class_latents = prompt.add(6, "RebatchLatents", "Eight at a time", {"latents": whole, "batch_size": 8})
    settings = {}
    for line, row in enumerate(table.methods, 1):
        values = {**SETTINGS, **row.settings, "run_name": f"{table.trainings}/{row.name}"}
        settings[row.label] = prompt.add(10 * line, "DEFTTrainingSettings", f"Settings of {row.label}", values)
    return Shared(model, clip, vae, empty, latent, scorer, settings, class_latents)


def add_subject(
    prompt: PromptBuilder, table: PaperTable, shared: Shared, subject: TableSubject, first: int
) -> list[Connection]:
    """A subject's nodes, with ids from `first` on; the scores of its rows."""
    name = subject.name
    called = f"{table.token} {subject.kind}".strip()

    def add(node: int, kind: str, title: str, inputs: Mapping[str, Any]) -> Connection:
        return prompt.add(first + node, kind, f"{title}, {name}", inputs)

    def encode(node: int, title: str, text: str | Connection) -> Connection:
        return add(node, "CLIPTextEncode", title, {"text": text, "clip": shared.clip})

    def sample(node: int, title: str, model: Connection, positive: Connection, latent: Connection) -> Connection:
        return add(
            node,
            "KSampler",
            title,
            {
                "model": model,
                "positive": positive,
                "negative": shared.empty,
                "latent_image": latent,
                "seed": SEED,
                **table.sampling,
                "denoise": 1.0,
            },
        )

    if subject.captions:
        photos = add(0, "DEFTLoadDreamBench", "Picture and prompts", {"captions": subject.captions})
        lines: str | Connection = [photos[0], 1]
    else:
        photos = add(0, "LoadImageDataSetFromFolder", "Photos", {"folder": subject.folder})
        lines = "\n".join(line.format(called) for line in subject.prompts)
    cut = add(
        1,
        "ImageScale",
        f"{table.side} x {table.side}",
        {
            "image": photos,
            "upscale_method": "lanczos",
            "width": table.side,
            "height": table.side,
            "crop": "center",
        },
    )
    latents = add(2, "VAEEncode", "Encode the photos", {"pixels": cut, "vae": shared.vae})
    caption = encode(3, "Caption", table.caption.format(subject.kind))
    prompts = add(4, "DEFTPrompts", "Prompts", {"prompts": lines, "token": table.token})
    encoded = encode(5, "Encode the prompts", prompts)
    text = [prompts[0], 1]
    size = shared.latent
    if table.through:
        place = table.noises * (first // 1000 - 1)
        own = {"samples": size, "batch_index": place, "length": table.noises}
        mine = add(8, "LatentFromBatch", f"Noise {place + 1} to {place + table.noises}", own)
        size = add(9, "RebatchLatents", f"{table.batch} at a time", {"latents": mine, "batch_size": table.batch})
    prior: dict[str, Connection] = {}
    if shared.class_latents:
        of_class = encode(6, "Caption of the class", f"a photo of a {subject.kind}")
        pictures = sample(7, "Pictures of the class", shared.model, of_class, shared.class_latents)
        prior = {"prior_latents": pictures, "prior_positive": of_class}

    scores, shown = [], []
    for line, row in enumerate(table.methods, 1):
        here, label = 10 * line, row.label
        settings = {"settings": shared.settings[label]}
        if row.inversion:
            trained = add(
                here,
                "DEFTTrainTextualInversion",
                f"Train {label}",
                {
                    "model": shared.model,
                    "clip": shared.clip,
                    "latents": latents,
                    "token": f"{table.trainings.replace('_', '-')}-{subject.id}",
                    "start": subject.kind,
                    **row.training,
                    **settings,
                },
            )
            renamed = add(
                here + 1,
                "StringReplace",
                "The new token in the prompts",
                {"string": prompts, "find": called, "replace": trained},
            )
            model, positive = shared.model, encode(here + 2, "Encode them", renamed)
            adapter = [trained[0], 4]
        else:
            adapter = add(
                here,
                "DEFTTrainAdapter",
                f"Train {label}",
                {
                    "model": shared.model,
                    "latents": latents,
                    "positive": caption,
                    **row.training,
                    **settings,
                    **(prior if row.prior else {}),
                },
            )
            add(
                here + 1,
                "DEFTSaveAdapter",
                f"Save {label}",
                {
                    "adapter": adapter,
                    "filename_prefix": f"{table.trainings}/{subject.id}_{row.name}",
                    "format": "native (.safetensors)",
                    "place": "models/loras",
                },
            )
            positive = encoded
            model = add(
                here + 2,
                "DEFTApplyAdapter",
                f"Apply {label}",
                {
                    "model": shared.model,
                    "adapter": adapter,
                    "strength_model": 1.0,
                    "strength_clip": 1.0,
                    "removal": 1.0,
                    "injection": 1.0,
                    "stacking": "sequential",
                },
            )
        latent = sample(here + 3, f"Sample {label}", model, positive, size)
        images = add(here + 4, "VAEDecode", f"Decode {label}", {"samples": latent, "vae": shared.vae})
        scores.append(
            add(
                here + 5,
                "DEFTScoreImages",
                f"Score {label}",
                {
                    "scorer": shared.scorer,
                    "images": images,
                    "references": photos,
                    "text": text,
                    "label": label + table.behind,
                    "subject": name,
                    "adapter": adapter,
                    "token": table.token,
                },
            )
        )
        if table.batch > 1:
            images = add(
                here + 6,
                "ImageFromBatch",
                f"The first of each {'sampling' if table.noises else 'prompt'}, {label}",
                {"image": images, "batch_index": 0, "length": 1},
            )
        shown.append(images)

    end = 10 * (len(table.methods) + 1)
    grid = add(
        end,
        "DEFTComparisonGrid",
        "Side by side",
        {
            "row_labels": "\n".join(row.label for row in table.methods),
            **({"column_labels": text} if len(subject.prompts) != 1 else {}),
            "subject": photos,
            **{f"images.images{place}": link for place, link in enumerate(shown)},
            **{f"scores.scores{place}": link for place, link in enumerate(scores)},
        },
    )
    small = add(end + 1, "ImageScaleBy", "Smaller", {"image": grid, "upscale_method": "area", "scale_by": table.shrink})
    add(end + 2, "SaveImage", "Save the grid", {"images": small, "filename_prefix": f"{table.name}/grid_{subject.id}"})
    return scores
