"""Compare Checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..deft_ops.adapter import describe
from ..patches.apply import apply
from ..scoring.checkpoints import Checkpoint, Recommendation, mean, recommend
from ..scoring.metrics import better, role_of
from ..scoring.pictures import FilePictures, TensorPictures
from ..scoring.scorer import DIVERSITY, DRIFT, Labels, Scorer, score
from ..scoring.scores import Scores, join
from ..scoring.statistics import Values, by_prompt
from ..scoring.texts import without_token
from .checkpoint_files import CheckpointFile, checkpoint_folders, checkpoints_of, names_in
from .output import as_image, text_ui
from .prompts import lines
from .provenance import graph_of
from .scoring import CATEGORY, cost_of, rank_of
from .sockets import LoraModel, ScorerSocket, ScoresSocket, file_state

if TYPE_CHECKING:
    from ..trainers.run.kept_pictures import KeptPictures

NONE = "none"  # where there is no folder yet: the node then says what to do
LAYOUTS = ("all pictures", "first seed only")
BASE = "base"
# Which of them decides, if a protocol has several; of likeness others may stand in, where more is better.
LIKENESS, FOLLOWING = ("DINO", "DINOv3", "DINOv2", "CLIP-I", "SigLIP2-I"), ("CLIP-T", "SigLIP2-T")
COMPARED = "compared"  # the folder of the pictures in the output folder


def strengths_of(text: str) -> list[float]:
    """The strengths in a text. Raises ValueError for anything else."""
    parts = text.replace(",", " ").split()
    try:
        values = list(dict.fromkeys(float(part) for part in parts))
    except ValueError:
        values = []
    if not values or not all(-20 <= value <= 20 and value for value in values):
        raise ValueError(
            f"strengths: {text!r} is no list of numbers from -20 to 20. Write for example 0.7, 1; the model without an "
            "adapter is with_base's."
        )
    return values


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled, and with what."""

    model: Any
    clip: Any
    vae: Any
    latent: dict[str, Any]
    negative: str
    steps: int
    cfg: float
    sampler: str
    scheduler: str

    def about(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """What all pictures are made of. graph: the nodes behind model, clip and vae."""
        from ..trainers.data.kept_latents import vae_hash
        from ..trainers.run.kept_pictures import model_key
        from ..trainers.run.report import described
        from ..trainers.settings.settings import digest

        patches = getattr(self.clip.patcher, "patches", {})
        return {
            "model": model_key(self.model),
            "clip": vae_hash(self.clip.cond_stage_model.state_dict()),
            "clip_patches": digest({str(key): described(patches[key]) for key in sorted(patches, key=str)}),
            "vae": f"{vae_hash(self.vae.get_sd())} {self.vae.vae_dtype}",
            "graph": digest(dict(graph)),
            "latent": list(self.latent["samples"].shape[1:]),
            "negative": self.negative,
            "steps": self.steps,
            "cfg": self.cfg,
            "sampler": self.sampler,
            "scheduler": self.scheduler,
        }

    def encoded(self, clip: Any, text: str) -> list:
        """A prompt as CONDITIONING."""
        entries: list = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return entries

    def picture(self, model: Any, positive: list, negative: list, seed: int) -> torch.Tensor:
        """One picture [h, w, 3]."""
        from ..trainers.run.previews import Previews, sample

        how = Previews(
            1,
            self.vae,
            positive[:1],
            negative,
            self.latent,
            self.steps,
            self.cfg,
            self.sampler,
            self.scheduler,
            seed,
        )
        return sample(model, how)[0]


@dataclass(frozen=True)
class Row:
    """A row of the grid: a checkpoint at a strength, or the model without an adapter."""

    name: str
    checkpoint: CheckpointFile | None = None
    strength: float = 0.0
    content: str = ""


class Maker:
    """Makes the pictures of the rows that are not kept yet."""

    def __init__(self, sampling: Sampling, kept: KeptPictures, about: Mapping[str, Any], total: int) -> None:
        self.sampling, self.kept, self.about, self.total = sampling, kept, about, total
        self.bar = comfy.utils.ProgressBar(total)
        self.done = self.made = 0

    def pictures(self, row: Row, prompts: Sequence[str], seeds: Sequence[int]) -> list[Path]:
        """The files of a row's pictures: all seeds of the first prompt, then of the next one."""
        cells = [(prompt, seed) for prompt in prompts for seed in seeds]
        abouts = [self._about(row, prompt, seed) for prompt, seed in cells]
        lacking = [cell for cell, about in zip(cells, abouts) if not self.kept.has(about)]
        self._count(len(cells) - len(lacking))
        if lacking:
            model, clip = self.applied(row)
            negative = self.sampling.encoded(clip, self.sampling.negative)
            entries = {prompt: self.sampling.encoded(clip, prompt) for prompt in dict.fromkeys(p for p, _ in lacking)}
            for prompt, seed in lacking:
                comfy.model_management.throw_exception_if_processing_interrupted()
                self.kept.keep(
                    self._about(row, prompt, seed), self.sampling.picture(model, entries[prompt], negative, seed)
                )
                self.made += 1
                self._count(1)
        return [self.kept.file(about) for about in abouts]

    def applied(self, row: Row) -> tuple[Any, Any]:
        """MODEL and CLIP with the row's adapter."""
        model, clip = self.sampling.model, self.sampling.clip
        if row.checkpoint is None:
            return model, clip
        adapter, name = row.checkpoint.adapter, row.checkpoint.path.name
        of_text = any(key.startswith(("text_encoders.", "lora_te", "text_model.")) for key in adapter)
        model, changed, _ = apply(
            adapter,
            model,
            clip if of_text else None,
            strength_model=row.strength,
            strength_clip=row.strength,
            source=name,
        )
        return model, changed if of_text else clip

    def _about(self, row: Row, prompt: str, seed: int) -> dict[str, Any]:
        own = {"adapter": row.content, "strength": row.strength, "prompt": prompt, "seed": seed}
        return {**self.about, **own}

    def _count(self, more: int) -> None:
        self.done += more
        self.bar.update_absolute(self.done, self.total)


def rows_of(found: Sequence[CheckpointFile], strengths: Sequence[float], with_base: bool) -> list[Row]:
    """The rows: the base, then each checkpoint at each strength."""
    from ..trainers.run.kept_pictures import content_of

    rows = [Row(BASE)] if with_base else []
    for item in found:
        content = content_of(item.path)
        for strength in strengths:
            more = f", strength {strength:g}" if len(strengths) > 1 else ""
            rows.append(Row(item.name + more, item, strength, content))
    return rows


def labels_of(row: Row, seeds: Sequence[int], count: int) -> Labels:
    """The labels of a row's scores, with the seed of each picture."""
    provenance = {"seeds": [seed for _ in range(count) for seed in seeds]}
    if row.checkpoint is None:
        return Labels(row.name, provenance=provenance)
    about = describe(row.checkpoint.adapter)
    return Labels(row.name, "", about.get("method", ""), rank_of(about), provenance | {"files": [row.checkpoint.file]})


def chosen_metrics(scorer: Scorer) -> tuple[str, str]:
    """The metrics of likeness and of prompt following. Raises ValueError for a protocol without one of them."""
    names = {
        role: [measure.metric for measure in scorer.protocol.of(role) if measure.backbone.kind in scorer.backbones]
        for role in ("references", "text")
    }
    others = [name for name in names["references"] if better(name) == "higher"]
    likeness = next((name for name in (*LIKENESS, *others) if name in names["references"]), "")
    following = next((name for name in FOLLOWING if name in names["text"]), "")
    if not likeness or not following:
        raise ValueError(
            f"scorer: the protocol {scorer.protocol.name} does not measure both likeness to the subject and prompt "
            "following; choose dreambooth, demo or another one that does."
        )
    return likeness, following


def grouped(scores: Scores, name: str, metric: str) -> Values:
    """The values of a row and metric by prompt."""
    return by_prompt(row for row in scores.rows if row.label == name and row.metric == metric)


def diversity_of(scores: Scores) -> str:
    """The metric of diversity among the scores; empty where there is none."""
    return next((row.metric for row in scores.rows if role_of(row.pairing) == "within"), "")


def chosen(
    rows: Sequence[Row], scores: Scores, scorer: Scorer, pictures: Sequence[FilePictures], photos: TensorPictures
) -> Recommendation:
    """The recommendation, by the place among the rows with a checkpoint."""
    from ..scoring.metrics.copying import to_nearest
    from ..scoring.nearest import among, features_of

    likeness, following = chosen_metrics(scorer)
    spread = diversity_of(scores)
    real = features_of(scorer, likeness, photos)
    between = among(real) if real is not None else []
    items, base = [], None
    for row, own in zip(rows, pictures, strict=True):
        if row.checkpoint is None:
            base = grouped(scores, row.name, likeness)
            continue
        features = features_of(scorer, likeness, own) if between else None
        near: dict[tuple[str, str], list[float]] = {}
        if features is not None and real is not None:
            scored = next(score for score in scores.rows if score.label == row.name and score.metric == likeness)
            for text, value in zip(scored.texts, to_nearest(features, real).tolist(), strict=True):
                near.setdefault(("", text), []).append(value)
        items.append(
            Checkpoint(
                row.name,
                row.checkpoint.step,
                row.strength,
                grouped(scores, row.name, likeness),
                grouped(scores, row.name, following),
                grouped(scores, row.name, spread) if spread else {},
                near,
            )
        )
    mutual = mean({("", ""): between}) if between else None
    return recommend(items, likeness, following, mutual, base)


def drawn(
    rows: Sequence[Row],
    pictures: Sequence[FilePictures],
    scores: Scores,
    found: Recommendation,
    prompts: Sequence[str],
    seeds: Sequence[int],
    photos: TensorPictures,
    layout: str,
) -> torch.Tensor:
    """The grid: rows down, prompts and seeds across, the recommended and the overfitted ones named."""
    from ..reports.arrangement import compared, row_scores
    from ..reports.grid import comparison_grid
    from ..scoring.pictures import ChosenPictures

    places = [place for place in range(len(prompts) * len(seeds)) if layout == LAYOUTS[0] or place % len(seeds) == 0]
    count, labels, at = len(prompts) * len(seeds), [], 0
    for row in rows:
        mark = ""
        if row.checkpoint is not None:
            mark = "recommended" if at == found.best else "overfitted" if at in found.overfitted else ""
            at += 1
        labels.append(f"{row.name} ({mark})" if mark else row.name)
    cells = [(prompt, seed) for prompt in prompts for seed in seeds]
    titles = [
        f"{cells[place][0]}, seed {cells[place][1]}" if len(seeds) > 1 and layout == LAYOUTS[0] else cells[place][0]
        for place in places
    ]
    measured = [
        row_scores(replace(scores, rows=tuple(one for one in scores.rows if one.label == row.name)), count)
        for row in rows
    ]
    base = [part.base for part in measured]
    each = [[part.each[place] if part.each else () for place in places] for part in measured]
    return as_image(
        comparison_grid(
            [ChosenPictures(own, places) for own in pictures],
            labels,
            titles,
            [line[0] for line in compared([[part.means] for part in measured], base)],
            photos,
            cell_scores=compared(each, base),
        )
    )


class DEFTCompareCheckpoints(io.ComfyNode):
    """The node that says which checkpoint of a training to take."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a model, a scorer, photos, checkpoints and how to sample; the best adapter and why."""
        return io.Schema(
            node_id="DEFTCompareCheckpoints",
            display_name="Compare Checkpoints",
            category=CATEGORY,
            description="Samples the checkpoints of a training with the same prompts and seeds, scores them, and "
            "recommends one, with the reason; names those that are overfitted. Each picture is sampled once and kept.",
            search_aliases=[
                "best checkpoint",
                "best epoch",
                "which epoch",
                "compare epochs",
                "checkpoint grid",
                "overfitting",
                "xy plot lora",
                "lora strength",
                "选择检查点",
                "过拟合",
            ],
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapters were trained on, without an adapter."),
                io.Clip.Input("clip", tooltip="Its CLIP, for the prompts."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of the pictures."),
                ScorerSocket.Input("scorer", tooltip="From Load Scorer."),
                io.Image.Input("references", tooltip="The training photos: likeness, and whether pictures copy them."),
                io.Combo.Input(
                    "checkpoints",
                    options=checkpoint_folders() or [NONE],
                    tooltip="A run of Train Adapter with checkpoints, or a folder of models/loras.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="a photo of sks dog",
                    tooltip="One prompt a line, with the subject. Eight or more distinguish checkpoints well.",
                ),
                io.String.Input("negative", multiline=True, default="", tooltip="The negative prompt."),
                io.String.Input("strengths", default="1", tooltip="Strengths of the adapter, such as 0.7, 1."),
                io.Int.Input(
                    "seeds", default=2, min=1, max=100, tooltip="Pictures of each prompt; two or more show diversity."
                ),
                # Not "seed": the page would draw another one after each run.
                io.Int.Input(
                    "first_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="The first seed; the others follow."
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input(
                    "sampler", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler", tooltip="The sampler."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="Its scheduler.",
                ),
                io.String.Input(
                    "drift_prompts",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Prompts without the subject, one a line: how far their pictures move from the base "
                    "model's. Empty: not measured.",
                ),
                io.String.Input(
                    "token",
                    default="sks",
                    optional=True,
                    tooltip="The rare word of the prompts; it is left out of the text that is scored.",
                ),
                io.Boolean.Input(
                    "with_base", default=True, optional=True, tooltip="The model without an adapter as the first row."
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    optional=True,
                    tooltip="What the grid shows; no picture is sampled again for another one.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the recommended adapter."),
                io.Clip.Output(display_name="clip", tooltip="The CLIP with it."),
                LoraModel.Output(display_name="adapter", tooltip="The recommended adapter, for Save Adapter."),
                io.Image.Output(display_name="grid", tooltip="All pictures with their scores."),
                io.Image.Output(display_name="plot", tooltip="Likeness against prompt following, with 95% intervals."),
                io.String.Output(display_name="table", tooltip="Scores and costs, in Markdown."),
                io.String.Output(display_name="report", tooltip="The recommendation with its reason, and overfitting."),
                ScoresSocket.Output(display_name="scores", tooltip="For Score Table, Save Scores and Fidelity Plot."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoints: list[str | None] | tuple[str, ...] = ("",), **_: object) -> Any:
        """The state of the files: the node runs again where the training has gone on."""
        return "\n".join(map(file_state, names_in(checkpoints[0])))

    @classmethod
    def execute(
        cls,
        model: list[Any],
        clip: list[Any],
        vae: list[Any],
        latent: list[dict[str, Any]],
        scorer: list[Scorer],
        references: list[torch.Tensor],
        checkpoints: list[str],
        prompts: list[str],
        negative: list[str],
        strengths: list[str],
        seeds: list[int],
        first_seed: list[int],
        steps: list[int],
        cfg: list[float],
        sampler: list[str],
        scheduler: list[str],
        drift_prompts: Sequence[str] = ("",),
        token: Sequence[str] = ("sks",),
        with_base: Sequence[bool] = (True,),
        layout: Sequence[str] = (LAYOUTS[0],),
    ) -> io.NodeOutput:
        """Sample what is not kept, score, choose and draw."""
        from ..reports.scatter import points_of, scatter
        from ..reports.tables import FORMS, tabulate
        from ..trainers.run.kept_pictures import KeptPictures

        texts, unrelated = lines("\n".join(prompts)), lines(drift_prompts[0])
        if not texts:
            raise ValueError("prompts: there are none. Write at least one line.")
        photos = TensorPictures(references, "references")
        if not len(photos):
            raise ValueError("references: there are none. Connect the photos that the adapters were trained on.")
        likeness, following = chosen_metrics(scorer[0])
        found = checkpoints_of(checkpoints[0])
        rows = rows_of(found, strengths_of(strengths[0]), with_base[0])
        draws = [(first_seed[0] + place) % 2**64 for place in range(seeds[0])]
        sampling = Sampling(
            model[0], clip[0], vae[0], latent[0], negative[0], steps[0], cfg[0], sampler[0], scheduler[0]
        )
        about = sampling.about(graph_of(cls.hidden.prompt, cls.hidden.unique_id, ("model", "clip", "vae")))
        folder = Path(folder_paths.get_output_directory()) / COMPARED / checkpoints[0].replace("/", "_")
        trained = [row for row in rows if row.checkpoint is not None]
        total = (len(rows) * len(texts) + (len(trained) + 1) * len(unrelated)) * len(draws)
        maker = Maker(sampling, KeptPictures(folder), about, total)
        pictures = [FilePictures(maker.pictures(row, texts, draws)) for row in rows]
        read = [without_token(text, token[0]) for text in texts for _ in draws]
        parts = []
        for row, own in zip(rows, pictures, strict=True):
            labels = labels_of(row, draws, len(texts))
            parts.append(score(scorer[0], own, photos, read, labels))
            if len(draws) > 1 and scorer[0].protocol.of("within"):
                parts.append(score(scorer[0], own, (), read, labels, task=DIVERSITY))
        if unrelated:
            untouched = FilePictures(maker.pictures(Row(BASE), unrelated, draws))
            spared = [text for text in unrelated for _ in draws]
            for row in trained:
                own = FilePictures(maker.pictures(row, unrelated, draws))
                labels = labels_of(row, draws, len(unrelated))
                parts.append(score(scorer[0], own, (), spared, labels, base=untouched, task=DRIFT))
        scores = join(parts)
        costs = tuple(
            cost_of(row.checkpoint.adapter, labels_of(row, (), 0)) for row in trained if row.checkpoint is not None
        )
        scores = replace(scores, costs=costs)
        choice = chosen(rows, scores, scorer[0], pictures, photos)
        table = tabulate(scores, heading="checkpoint")
        grid = drawn(rows, pictures, scores, choice, texts, draws, photos, layout[0])
        points, notes = points_of(scores, following, likeness)
        plot = as_image(scatter(points, following, likeness, "", notes))
        best = trained[choice.best]
        assert best.checkpoint is not None
        changed, encoder = maker.applied(best)
        report = "\n".join(
            [
                choice.text(),
                f"The file: {best.checkpoint.file}, strength {best.strength:g}.",
                f"{maker.made} pictures sampled, {total - maker.made} kept from before in {folder}.",
            ]
        )
        markdown = FORMS["md"](table, "").decode()
        return io.NodeOutput(
            changed,
            encoder,
            best.checkpoint.adapter,
            grid,
            plot,
            markdown,
            report,
            scores,
            ui={**ui.PreviewImage(grid).as_dict(), **text_ui(report)},
        )


NODES: list[type[io.ComfyNode]] = [DEFTCompareCheckpoints]
