"""Training Settings and Training Previews: what Train Adapter takes beside its own widgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..deft_ops.settings import MORE, described
from ..disk.errors import check_zero
from ..models.source_file import name_of_file
from ..models.titles import class_of, title_of
from ..scoring.deciding import Deciding
from ..scoring.pictures import TensorPictures
from ..scoring.scorer import Scorer
from ..scoring.texts import split_texts, without_token
from ..trainers.run.checkpoints import RunFolder
from ..trainers.run.preview_scores import Judge
from ..trainers.run.previews import Previews
from ..trainers.settings import by_recipe, recipes
from ..trainers.settings.presets import NONE, PRESETS, with_preset
from ..trainers.settings.run import Run, digest
from ..trainers.settings.settings import Settings, training_settings
from ..trainers.settings.targets import CHOICES
from .fields import widget, widgets
from .sockets import ScorerSocket, TrainingPreviews, TrainingSettings

CATEGORY = "DEFT/training"


def gathered(connected: dict[str, Any] | None, **values: Any) -> tuple[Settings, dict[str, Any], list[str]]:
    """The settings of a training node and of the connected Training Settings; its run; lines for the report."""
    more = connected or {"preset": NONE, "settings": {}, "run": {}}
    name = more["preset"]
    chosen = with_preset(Settings.of(**{**more["settings"], **values}), name)
    return chosen, asdict(Run()) | more["run"], [] if name == NONE else [f"preset {name}: {PRESETS[name].source}"]


def with_name(run: dict[str, Any], name: str) -> dict[str, Any]:
    """A run under the name that is connected at the training node; without one the run as it is.

    Raises:
        ValueError: the name is none of a file, or Training Settings has another one.
    """
    connected = Run.of(name=name).name
    if run["name"] and connected not in ("", run["name"]):
        raise ValueError(
            f"The input name is {connected!r}, and Training Settings has the name {run['name']!r}: choose one of them."
        )
    return run | {"name": connected or run["name"]}


def by_its_recipe(
    connected: dict[str, Any] | None, chosen: Settings, model: Any, latents: Sequence[dict[str, Any]], empty: bool
) -> tuple[Settings, list[str]]:
    """The settings by the recipe of the model where Training Recipe is connected, or of what is left open where the
    learning rate is 0; lines on what was chosen.

    latents: the pictures. empty: whether there is an empty caption.

    Raises:
        ValueError: a preset beside the recipe; a base that the model is not.
    """
    asked = (connected or {}).get("recipe")
    if asked is None:
        return _with_usual_rate(chosen, model)
    if connected is not None and connected["preset"] != NONE:
        raise ValueError(
            f"Training Settings has the preset {connected['preset']!r}, and Training Recipe is connected: choose one "
            "of them, the preset none or no recipe."
        )
    wishes, inner = by_recipe.Wishes(**asked), model.model
    recipe = recipes.recipe_of(inner, name_of_file(model), wishes.base)
    if recipe is None:
        chosen, lines = _with_usual_rate(chosen, model)
        return chosen, [by_recipe.lacking(class_of(inner), title_of(inner), bool(lines)), *lines]
    chosen = by_recipe.with_recipe(chosen, recipe, wishes, empty)
    pixels = getattr(inner.latent_format, "spacial_downscale_ratio", 8)
    area = max((item["samples"].shape[-1] * item["samples"].shape[-2] for item in latents), default=0) * pixels**2
    lines = [by_recipe.chosen_values(chosen, recipe, wishes), by_recipe.size_note(recipe, wishes, area)]
    return chosen, [line for line in lines if line]


def _with_usual_rate(chosen: Settings, model: Any) -> tuple[Settings, list[str]]:
    """The settings with the usual learning rate where theirs is 0, and a line on it."""
    if chosen.learning_rate or chosen.trains_token:
        return chosen, []
    recipe = recipes.recipe_of(model.model, name_of_file(model), recipes.AUTO)
    chosen = by_recipe.with_usual_rate(chosen, recipe)
    return chosen, [by_recipe.usual_rate_note(chosen, recipe)]


def run_folder(run: dict[str, Any]) -> RunFolder:
    """The folder of a run's log and checkpoints: one of this name (and more) in ComfyUI's output folder.

    Raises:
        ValueError: a name that leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    check_zero(output / run["run_name"])
    path = (output / run["run_name"]).resolve()
    if path == output or output not in path.parents:
        raise ValueError(f"The run name {run['run_name']!r} is not within the output folder: use a name like a/b.")
    return RunFolder(path, run["checkpoint_every"], run["keep"], run["resume"])


class DEFTTrainingSettings(io.ComfyNode):
    """The node of the settings that most people leave as they are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a preset and all settings of `training_settings`; one socket for Train Adapter."""
        return io.Schema(
            node_id="DEFTTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="Optimizer, schedule, objective, choice of layers and checkpoints for "
            "Train Adapter. The defaults are what Train Adapter uses without this "
            "node.",
            search_aliases=[
                "optimizer",
                "scheduler",
                "min snr",
                "ema",
                "checkpoint",
                "resume",
                "warmup",
                "learning rate",
                "learning rate schedule",
                "学习率",
                "优化器",
                "断点续训",
            ],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[NONE, *PRESETS],
                    default=NONE,
                    tooltip="Published settings, which replace those here and at the training "
                    "node (except the method). The help page lists them with their "
                    "sources.",
                ),
                *widgets(training_settings(), MORE, later=False),
                *widgets(described(Run), MORE, later=False),
                *widgets(described(Run), MORE, later=True),
                *widgets(training_settings(), MORE, later=True),
            ],
            outputs=[TrainingSettings.Output(display_name="settings", tooltip="For Train Adapter.")],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        """Pack the settings."""
        run = asdict(Run.of(**{name: values.pop(name) for name in described(Run) if name in values}))
        run_folder(run)
        return io.NodeOutput({"preset": values.pop("preset"), "settings": values, "run": run})


class DEFTTrainingRecipe(io.ComfyNode):
    """The node of how the base's reference trainer trains it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: for what and how, values in place of the recipe's; one socket for Train Adapter."""
        return io.Schema(
            node_id="DEFTTrainingRecipe",
            display_name="Training Recipe",
            category=CATEGORY,
            description="Sets steps, rank, layers, learning rate, noise levels and guidance for "
            "Train Adapter as in the base's reference trainer, chosen by the model; "
            "the learning rate follows the method. They override the training node's "
            "own, which shows the choice before the first step.",
            search_aliases=[
                "training recipe",
                "training preset",
                "auto settings",
                "noise levels",
                "train subject",
                "train style",
                "训练配方",
                "自动设置",
            ],
            inputs=[
                io.Combo.Input(
                    "what",
                    options=list(by_recipe.WHAT),
                    default=by_recipe.SUBJECT,
                    tooltip="What to learn: a subject (a person, an object) or a style, which takes more steps.",
                ),
                io.Combo.Input(
                    "how",
                    options=list(by_recipe.HOW),
                    default=by_recipe.USUAL,
                    tooltip="Steps and rank relative to the recipe. The help page describes each choice.",
                ),
                io.Combo.Input(
                    "base",
                    options=[recipes.AUTO, *(recipe.title for recipe in recipes.RECIPES)],
                    default=recipes.AUTO,
                    tooltip="The base whose recipe is used. auto: by the model, and by its file's"
                    " name if two models are of one kind, such as Z-Image and Z-Image "
                    "Turbo.",
                ),
                widget("steps", low=0, start=0, words="Training steps; 0: the recipe's for what and how."),
                widget("learning_rate", words="Step size; 0: the recipe's, for the method and the optimizer."),
                widget("rank", low=0, start=0, words="Rank of each layer's change; 0: the recipe's."),
                io.Combo.Input(
                    "layers",
                    options=[recipes.AUTO, *CHOICES],
                    default=recipes.AUTO,
                    tooltip="Which layers get an adapter; auto: the recipe's, everything for those that train norms.",
                ),
                TrainingSettings.Input(
                    "settings",
                    optional=True,
                    tooltip="Training Settings for everything else; what is changed there overrides the recipe.",
                ),
            ],
            outputs=[TrainingSettings.Output(display_name="settings", tooltip="For Train Adapter.")],
        )

    @classmethod
    def execute(cls, settings: dict[str, Any] | None = None, **values: Any) -> io.NodeOutput:
        """Put the wishes beside the settings; the training node knows the model."""
        more = settings or {"preset": NONE, "settings": {}, "run": asdict(Run())}
        return io.NodeOutput(more | {"recipe": asdict(by_recipe.Wishes(**values))})


def judge_of(
    scorer: Scorer | None,
    references: Sequence[torch.Tensor],
    texts: str,
    token: str,
    stop_after: int,
    prompts: int,
) -> Judge | None:
    """What scores previews of so many prompts; None where no scorer is connected.

    Raises:
        ValueError: a scorer without photos, or what it needs without a scorer; a number of texts that is not that of
            the prompts; a protocol that does not measure it.
    """
    if scorer is None:
        if references:
            raise ValueError("scorer: there is none, and references are connected. Connect Load Scorer.")
        if stop_after:
            raise ValueError("stop_after: previews are not scored. Connect scorer and references, or set it to 0.")
        return None
    photos = TensorPictures([batch for batch in references if len(batch)], "references")
    deciding = Deciding(scorer, photos, [without_token(text, token) for text in split_texts(texts, [prompts])])

    def score(pictures: torch.Tensor) -> tuple[dict[str, float], Sequence[str]]:
        return deciding.score(TensorPictures([pictures], "previews"))

    return Judge(score, digest(deciding.about()), stop_after)


class DEFTTrainingPreviews(io.ComfyNode):
    """The node of the pictures to sample in the midst of a training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: captions and how to sample them; one socket for Train Adapter."""
        return io.Schema(
            node_id="DEFTTrainingPreviews",
            display_name="Training Previews",
            category=CATEGORY,
            description="Samples pictures at regular steps of Train Adapter, always from the same"
            " noise. They are shown at the node while it trains, and as a contact "
            "sheet at the end. With a scorer each is scored, and a training that gets worse can stop.",
            search_aliases=[
                "sample",
                "validation",
                "preview",
                "sample while training",
                "early stopping",
                "validation score",
                "训练预览",
                "样图",
                "早停",
            ],
            is_input_list=True,
            inputs=[
                io.Vae.Input("vae", tooltip="To decode the pictures."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt to sample; several prompts make a row of pictures."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt, or the empty one."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of the pictures."),
                io.Int.Input("every", default=100, min=1, max=1_000_000, tooltip="Steps between previews."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps of a preview."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance of a preview."),
                io.Combo.Input(
                    "sampler",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="euler",
                    tooltip="The sampler of a preview.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="The scheduler of a preview.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the noise.",
                    control_after_generate=io.ControlAfterGenerate.fixed,  # or a resumed run could not compare scores
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model without the training adapter that a distilled base is "
                    "trained with. Previews are sampled from it; if not connected, from "
                    "the model that is trained.",
                ),
                ScorerSocket.Input(
                    "scorer",
                    optional=True,
                    tooltip="From Load Scorer: each preview is scored. The scores are drawn beside the loss.",
                ),
                io.Image.Input(
                    "references", optional=True, tooltip="Photos of the subject, for the previews' likeness to it."
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="The prompts of the previews, one a line, to score how well they are followed. Empty: only "
                    "the likeness is scored.",
                ),
                io.String.Input(
                    "token",
                    default="sks",
                    optional=True,
                    tooltip="The rare word of the prompts; it is left out of the text that is scored.",
                ),
                io.Int.Input(
                    "stop_after",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="Stop when the likeness has been lower than its best for so many previews in a row, and "
                    "keep the best checkpoint. 0: train all steps.",
                ),
            ],
            outputs=[TrainingPreviews.Output(display_name="previews", tooltip="For Train Adapter.")],
        )

    @classmethod
    def execute(
        cls,
        positive: list[list],
        scorer: list[Scorer] | None = None,
        references: list[torch.Tensor] | None = None,
        text: Sequence[str] = ("",),
        token: Sequence[str] = ("sks",),
        stop_after: Sequence[int] = (0,),
        **values: list[Any],
    ) -> io.NodeOutput:
        """Pack them. All inputs are lists, because photos come as a list, and so do several prompts."""
        prompts = [entry for entries in positive for entry in entries]
        judge = judge_of(
            scorer[0] if scorer else None, references or (), "\n".join(text), token[0], stop_after[0], len(prompts)
        )
        return io.NodeOutput(
            Previews(positive=prompts, judge=judge, **{name: value[0] for name, value in values.items()})
        )


NODES: list[type[io.ComfyNode]] = [DEFTTrainingSettings, DEFTTrainingRecipe, DEFTTrainingPreviews]
