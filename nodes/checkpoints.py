"""Compare Checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..deft_ops.adapter import describe
from ..scoring.pictures import FilePictures, TensorPictures
from ..scoring.scorer import DIVERSITY, DRIFT, Labels, Scorer, score
from ..scoring.scores import join
from ..scoring.texts import without_token
from .checkpoint_files import BASE, Row, checkpoint_folders, checkpoints_of, names_in, rows_of, run_of
from .output import as_image, text_ui
from .prompts import lines
from .provenance import graph_of
from .scoring import CATEGORY, cost_of, rank_of
from .sockets import LoraModel, ScorerSocket, ScoresSocket, file_state

_NONE = "none"  # where there is no folder yet, or `adapter` says which
LAYOUTS = ("all pictures", "first seed only")
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


def labels_of(row: Row, seeds: Sequence[int], count: int) -> Labels:
    """The labels of a row's scores, with the seed of each picture."""
    provenance = {"seeds": [seed for _ in range(count) for seed in seeds]}
    if row.checkpoint is None:
        return Labels(row.name, provenance=provenance)
    about = describe(row.checkpoint.adapter)
    return Labels(row.name, "", about.get("method", ""), rank_of(about), provenance | {"files": [row.checkpoint.file]})


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
                    options=[*checkpoint_folders(), _NONE],
                    tooltip="A run of Train Adapter with checkpoints, or a folder of models/loras; none if `adapter` "
                    "is connected.",
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
                    "sampler",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="euler",
                    tooltip="The sampler, as you will use it with the adapter.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="How the sampler spaces the noise levels; as you will use it with the adapter.",
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
                LoraModel.Input(
                    "adapter",
                    optional=True,
                    tooltip="From Train Adapter in this workflow: the checkpoints of its run are compared, in place of "
                    "those of `checkpoints`.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the recommended adapter."),
                io.Clip.Output(display_name="clip", tooltip="The CLIP with it."),
                LoraModel.Output(display_name="adapter", tooltip="The recommended adapter, for Save Adapter."),
                io.Image.Output(display_name="grid", tooltip="All pictures with their scores."),
                io.Image.Output(display_name="plot", tooltip="Likeness against prompt following, with 95% intervals."),
                io.String.Output(
                    display_name="table",
                    tooltip="The scores and what the training took, in Markdown: seconds for each step, peak memory, "
                    "file size.",
                ),
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
        adapter: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Sample what is not kept, score, choose and draw."""
        from ..reports.checkpoints import checkpoint_grid
        from ..reports.scatter import points_of, scatter
        from ..reports.tables import FORMS, tabulate
        from ..scoring.deciding import Sampled, decided, deciding
        from ..trainers.run.kept_pictures import KeptPictures
        from ..trainers.run.sampled_once import SampledOnce, Sampling

        texts, unrelated = lines("\n".join(prompts)), lines(drift_prompts[0])
        if not texts:
            raise ValueError("prompts: there are none. Write at least one line.")
        photos = TensorPictures(references, "references")
        if not len(photos):
            raise ValueError("references: there are none. Connect the photos that the adapters were trained on.")
        likeness, following = deciding(scorer[0])
        place, run = run_of(adapter[0]) if adapter else (checkpoints[0], None)
        rows = rows_of(checkpoints_of(place, run), strengths_of(strengths[0]), with_base[0])
        trained = [row for row in rows if row.checkpoint is not None]
        draws = [(first_seed[0] + place) % 2**64 for place in range(seeds[0])]
        sampling = Sampling(
            model[0], clip[0], vae[0], latent[0], negative[0], steps[0], cfg[0], sampler[0], scheduler[0]
        )
        about = sampling.about(graph_of(cls.hidden.prompt, cls.hidden.unique_id, ("model", "clip", "vae")))
        folder = Path(folder_paths.get_output_directory()) / COMPARED / place.replace("/", "_")
        total = (len(rows) * len(texts) + (len(trained) + 1) * len(unrelated)) * len(draws)
        bar = comfy.utils.ProgressBar(total)
        maker = SampledOnce(sampling, KeptPictures(folder), about, lambda done: bar.update_absolute(done, total))

        def pictures_of(row: Row, which: Sequence[str]) -> FilePictures:
            return FilePictures(maker.pictures(row.about, lambda: row.applied(model[0], clip[0]), which, draws))

        pictures = [pictures_of(row, texts) for row in rows]
        read = [without_token(text, token[0]) for text in texts for _ in draws]
        parts = []
        for row, own in zip(rows, pictures, strict=True):
            labels = labels_of(row, draws, len(texts))
            parts.append(score(scorer[0], own, photos, read, labels))
            if len(draws) > 1 and scorer[0].protocol.of("within"):
                parts.append(score(scorer[0], own, (), read, labels, task=DIVERSITY))
        if unrelated:
            untouched = pictures_of(Row(), unrelated)
            spared = [text for text in unrelated for _ in draws]
            for row in trained:
                own, labels = pictures_of(row, unrelated), labels_of(row, draws, len(unrelated))
                parts.append(score(scorer[0], own, (), spared, labels, base=untouched, task=DRIFT))
        costs = [cost_of(row.checkpoint.adapter, labels_of(row, (), 0)) for row in trained if row.checkpoint]
        scores = replace(join(parts), costs=tuple(costs))
        sampled = [
            Sampled(row.name, row.checkpoint.step, row.strength, own)
            for row, own in zip(rows, pictures, strict=True)
            if row.checkpoint
        ]
        choice = decided(scorer[0], scores, sampled, photos, BASE if with_base[0] else None)
        marks = [
            "recommended" if at == choice.best else "overfitted" if at in choice.overfitted else ""
            for at, _ in enumerate(trained)
        ]
        names = [row.name for row in rows]
        grid = as_image(
            checkpoint_grid(
                pictures,
                names,
                [""] * (len(rows) - len(trained)) + marks,
                scores,
                texts,
                draws,
                photos,
                layout[0] == LAYOUTS[1],
            )
        )
        points, notes = points_of(scores, following, likeness)
        plot = as_image(scatter(points, following, likeness, "", notes))
        best = trained[choice.best]
        assert best.checkpoint is not None
        changed, encoder = best.applied(model[0], clip[0])
        report = "\n".join(
            [
                choice.text(),
                f"The file: {best.checkpoint.file}, strength {best.strength:g}.",
                f"{maker.made} pictures sampled, {total - maker.made} kept from before in {folder}.",
            ]
        )
        markdown = FORMS["md"](tabulate(scores, heading="checkpoint"), "").decode()
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
