"""Train Textual Inversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from ..deft_ops.files import safe
from ..deft_ops.settings import described
from ..trainers.run.token import CAPTION_TEMPLATES, captions_of, check_name, material_of
from ..trainers.settings.textual_inversion import TEXTUAL_INVERSION, TokenSettings
from .fields import widget, widget_of
from .live import shown_run
from .output import text_ui
from .sockets import LoraModel, LossMap, TrainingSettings
from .training import StepReporter, first, loss_plot
from .training_settings import by_its_recipe, gathered, run_folder


def embedding_path(name: str, overwrite: bool) -> Path:
    """The path of the embedding's file.

    Raises:
        ValueError: there is one of this name, under any of ComfyUI's endings, and it is not to be overwritten.
    """
    folders = [Path(folder) for folder in folder_paths.get_folder_paths("embeddings")]
    for folder in folders:
        for file in folder.rglob("*"):
            if file.stem == name and file.suffix in (".safetensors", ".pt", ".bin") and not overwrite:
                raise ValueError(f"The embedding {name!r} already exists ({file}): choose another name or overwrite.")
    return folders[0] / f"{name}.safetensors"


class DEFTTrainTextualInversion(io.ComfyNode):
    """The node that trains the embedding of a new token."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a model, pictures, the token and its captions; the embedding, its losses and a report."""
        own = described(TokenSettings)
        return io.Schema(
            node_id="DEFTTrainTextualInversion",
            display_name="Train Textual Inversion",
            category="DEFT/training",
            description="Learns only the vectors of a new token from a few pictures: a file of a "
            "few kilobytes in models/embeddings, ready to use as embedding:name in "
            "any prompt. For models with CLIP text encoders: SD 1.5, SD 2, SDXL.",
            search_aliases=[
                "embedding",
                "train embedding",
                "textual inversion",
                "token",
                "personalise",
                "embedding training",
                "训练 embedding",
                "嵌入",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to learn with. It is not changed."),
                io.Clip.Input("clip", tooltip="Its text encoder. It is not changed."),
                io.Latent.Input("latents", tooltip="The pictures, encoded: one batch or a list, of any sizes."),
                widget_of("token", *own["token"]),
                widget_of("vectors", *own["vectors"]),
                widget_of("start", *own["words"]),
                io.Combo.Input(
                    "template",
                    options=list(CAPTION_TEMPLATES),
                    default="object",
                    tooltip="Captions to train with: for an object, or for a style.",
                ),
                widget("steps", start=3000),
                widget(
                    "learning_rate",
                    start=5e-4,
                    step=1e-6,
                    words="Step size of AdamW. 5e-4 times the batch size in the diffusers script.",
                ),
                widget("batch_size", words="Pictures per step."),
                widget("seed", words="Seed of the noise, the noise levels and the order of pictures and captions."),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Replace an embedding of this name; otherwise it is an error."
                ),
                widget("precision"),
                widget("gradient_checkpointing"),
                TrainingSettings.Input(
                    "settings", optional=True, tooltip="Training Settings; without it their defaults are used."
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="Your own captions instead of the template, each containing the "
                    "token: a list with one for all pictures, or one for each.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="embedding", tooltip="What to write in prompts: embedding:name."),
                LossMap.Output(display_name="loss_map", tooltip="The losses, for ComfyUI's Plot Loss Graph."),
                io.String.Output(display_name="report", tooltip="Vectors, time, loss, gradient norms, file."),
                io.Image.Output(display_name="loss_plot", tooltip="The loss and its moving average."),
                LoraModel.Output(
                    display_name="vectors", tooltip="The embedding's tensors, for Score Images to show its costs."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: list[Any],
        clip: list[Any],
        latents: list[dict[str, Any]],
        token: list[str],
        vectors: list[int],
        start: list[str],
        template: list[str],
        steps: list[int],
        learning_rate: list[float],
        batch_size: list[int],
        seed: list[int],
        overwrite: list[bool],
        precision: list[str],
        gradient_checkpointing: list[bool],
        settings: list[dict[str, Any]] | None = None,
        captions: list[str] | None = None,
    ) -> io.NodeOutput:
        """Train and write the embedding."""
        from ..trainers.run.loop import train

        name = first(token)
        check_name(first(clip), name)
        path = embedding_path(name, first(overwrite))
        connected = first(settings) if settings else None
        chosen, run, notes = gathered(
            connected,
            method=TEXTUAL_INVERSION,
            rank=1,
            steps=first(steps),
            learning_rate=first(learning_rate),
            batch_size=first(batch_size),
            seed=first(seed),
            precision=first(precision),
            gradient_checkpointing=first(gradient_checkpointing),
            options={"token": name, "vectors": first(vectors), "words": first(start)},
        )
        chosen, recipe_lines = by_its_recipe(connected, chosen, first(model), latents, empty=False)
        if run["name"]:
            notes.append(f"the name {run['name']!r} of Training Settings is not used: the embedding's is its token")
        texts = captions_of(name, first(template), captions or ())
        material = material_of(first(clip), latents, texts, bool(captions), first(start))
        reporter = StepReporter(chosen.steps)
        result = train(
            first(model),
            material,
            chosen,
            reporter,
            folder=run_folder(run),
            on_start=reporter.show,
            on_stop=reporter.show,
            notes=recipe_lines,
        )
        safe.write_tensors(result.adapter, path, {"format": "pt", **result.adapter.metadata})
        report = "\n".join([result.report, *notes, f"written to {path}; write embedding:{name} in prompts"])
        return io.NodeOutput(
            f"embedding:{name}",
            {"loss": result.losses},
            report,
            loss_plot(result, chosen),
            result.adapter,
            ui={**text_ui(report), **shown_run(result.folder)},
        )


NODES: list[type[io.ComfyNode]] = [DEFTTrainTextualInversion]
