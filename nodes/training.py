"""Train Adapter."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..deft_ops import methods
from ..deft_ops.settings import TRAINING, described
from ..scoring.packages import MissingPackage
from ..scoring.pictures import to_pictures
from ..trainers.settings.settings import Settings
from .fields import method_widgets, widgets
from .live import LiveRun, duration, shown_run
from .named_files import named_file, write_named
from .output import show_text
from .sockets import LoraModel, LossMap, TrainingPreviews, TrainingSettings
from .training_settings import by_its_recipe, gathered, run_folder, with_name

if TYPE_CHECKING:
    from ..trainers.run.loop import TrainingResult
    from ..trainers.run.preview_scores import Scored
    from ..trainers.run.training_run import StepProgress

# Each method with its own widgets.
_METHOD_OPTIONS = [
    io.DynamicCombo.Option(name, method_widgets(methods.training_of(name))) for name in methods.TRAINABLE
]


def first(value: Any) -> Any:
    """The value of a widget. The node takes lists, so that data set nodes can feed it; widgets come as lists too."""
    if isinstance(value, dict):
        return {name: first(item) for name, item in value.items()}
    return value[0] if isinstance(value, list) else value


def chosen_method(choice: dict[str, Any]) -> dict[str, Any]:
    """Settings of the dynamic choice: the method, and those that it shows."""
    name = choice["method"]
    values = {
        key: setting.stored(choice[setting.widget(key)])
        for key, (setting, _) in described(methods.training_of(name).settings).items()
        if setting.widget(key) in choice
    }
    return {"rank": 1, **values, "method": name}


class StepReporter:
    """ComfyUI's progress bar with the newest preview, the loss as text at the node, and the page's live curve."""

    def __init__(self, steps: int) -> None:
        self.live = LiveRun()
        self.bar = comfy.utils.ProgressBar(steps)
        self.smooth: float | None = None

    def show(self, text: str) -> None:
        """Log a text and show it at the node: what is said before the first step, or after a stop."""
        logging.info(text)
        show_text(text)

    def __call__(self, progress: StepProgress) -> None:
        """Report one step."""
        self.smooth = progress.loss if self.smooth is None else 0.95 * self.smooth + 0.05 * progress.loss
        left = self.live.left(progress)
        self.live.step(progress, left)
        if progress.step % 10 == 0 or progress.step in (1, progress.steps) or progress.seconds > 0.5:
            show_text(
                f"step {progress.step}/{progress.steps}, loss {progress.loss:.4f} (mean {self.smooth:.4f}), "
                f"rate {progress.rate:.3g}, gradient {progress.grad_norm:.2g}, {progress.seconds:.2f} s a step"
                + (f", {duration(left)} left" if left else "")
                + newest_scores(progress.scored)
            )
        preview = None
        if progress.pictures is not None:
            row = torch.cat(list(progress.pictures), dim=1)[None]
            preview = ("JPEG", to_pictures(row)[0], 1024)
        self.bar.update_absolute(progress.step, preview=preview)


def newest_scores(scored: Scored) -> str:
    """The end of a text: the scores of the newest preview; nothing without scores."""
    if not scored:
        return ""
    step, values = scored[-1]
    return f"; preview of step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def contact_sheet(result: TrainingResult) -> Any:
    """The previews as one IMAGE, a column a step, in several lines; without previews what stops the nodes behind it."""
    if not result.pictures:
        return ExecutionBlocker(None)
    from ..reports.sheet import preview_sheet
    from .output import as_image

    return as_image(preview_sheet([(step, to_pictures(pictures)) for step, pictures in result.pictures]))


def loss_plot(result: TrainingResult, settings: Settings) -> Any:
    """The loss as IMAGE; without matplotlib a blocker that reports it at the node behind, for the training is done."""
    from ..reports.plots import training_picture
    from .output import as_image

    label = f"{result.title}, {settings.optimizer} {settings.learning_rate:g}"
    try:
        return as_image(training_picture(result.losses, result.rates, label))
    except MissingPackage as error:
        logging.warning(str(error))
        return ExecutionBlocker(str(error))


def cache_folder() -> Path:
    """The folder for what takes long to compute of a base: ComfyUI empties its temporary folder at every start."""
    return Path(folder_paths.get_user_directory()) / "deft_nodes" / "decompositions"


class DEFTTrainAdapter(io.ComfyNode):
    """The node that trains an adapter of MODEL, latents and captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a model, pictures, captions, the method and its settings; the adapter, losses and a report."""
        return io.Schema(
            node_id="DEFTTrainAdapter",
            display_name="Train Adapter",
            category="DEFT/training",
            description="Trains an adapter of the chosen method, such as DEFT or LoRA, on a few "
            "pictures, using the model as ComfyUI loaded it: any architecture, no "
            "second copy, the model's own objective. The same seed gives the same "
            "adapter.",
            search_aliases=[
                "train lora",
                "lora training",
                "lora trainer",
                "train deft",
                "train para",
                "svdiff",
                "dreambooth",
                "dreambooth lora",
                "fine-tune",
                "fine tuning",
                "finetune",
                "loss curve",
                "learning rate",
                "训练 lora",
                "lora 训练",
                "微调",
                "模型微调",
                "损失曲线",
                "学习率",
            ],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train on. It is not changed."),
                io.Latent.Input(
                    "latents",
                    tooltip="The encoded training pictures: one batch, or a list from Prepare "
                    "Training Pictures or ComfyUI's data set nodes, of one or several "
                    "sizes. A latent's noise mask selects the part of the picture to "
                    "learn.",
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The encoded captions: one for all pictures, or a list with one for each."
                ),
                io.DynamicCombo.Input(
                    "method",
                    options=_METHOD_OPTIONS,
                    tooltip="How each layer is changed. The help page describes each method.",
                ),
                *widgets(described(Settings), TRAINING, later=False),
                TrainingSettings.Input(
                    "settings", optional=True, tooltip="Training Settings; without it their defaults are used."
                ),
                TrainingPreviews.Input("previews", optional=True, tooltip="Training Previews, to see it learn."),
                io.Latent.Input(
                    "prior_latents",
                    optional=True,
                    tooltip="Prior preservation: encoded pictures of other members of the "
                    "subject's class. As many as the batch size are added to each batch.",
                ),
                io.Conditioning.Input(
                    "prior_positive", optional=True, tooltip="Captions of the prior pictures: one, or one for each."
                ),
                io.Conditioning.Input(
                    "empty_caption", optional=True, tooltip="An encoded empty text; only needed for caption dropout."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect to train the text encoder as well, with the captions as text.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="The captions as text, in the order of the encoded ones, to train the"
                    " text encoder. Their tags, and the words that all of them share as "
                    "trigger words, also go into the file's header.",
                ),
                *widgets(described(Settings), TRAINING, later=True),
                # Of two types, so that it has no widget. With a second socket of force_input the page takes what was
                # saved for a method of two widgets as values of widgets that became sockets, and drops one.
                io.MultiType.Input(
                    "name",
                    [io.String, io.Combo],
                    optional=True,
                    tooltip="The adapter's name as a text, such as my_dog, if Training Settings "
                    "has none: the finished adapter is also written to "
                    "models/loras/my_dog.safetensors.",
                ),
            ],
            outputs=[
                LoraModel.Output(
                    display_name="adapter",
                    tooltip="The trained adapter, for Apply Adapter, Save Adapter, or ComfyUI's own LoRA nodes.",
                ),
                LossMap.Output(display_name="loss_map", tooltip="The losses, for ComfyUI's Plot Loss Graph."),
                io.String.Output(
                    display_name="report",
                    tooltip="Layers, trained values, time, loss, gradient norms and how far the weights moved.",
                ),
                io.Image.Output(display_name="loss_plot", tooltip="The loss and its moving average."),
                io.Image.Output(
                    display_name="preview_sheet",
                    tooltip="The previews, one column per step. Empty without Training Previews.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: list[Any],
        latents: list[dict[str, Any]],
        positive: list[list],
        method: dict[str, Any] | None = None,
        settings: list[dict[str, Any]] | None = None,
        previews: list[Any] | None = None,
        prior_latents: list[dict[str, Any]] | None = None,
        prior_positive: list[list] | None = None,
        empty_caption: list[list] | None = None,
        clip: list[Any] | None = None,
        captions: list[str] | None = None,
        name: list[str] | None = None,
        **values: list[Any],
    ) -> io.NodeOutput:
        """Train."""
        from ..trainers.data.material import Material
        from ..trainers.run.loop import train

        if method is None:  # ComfyUI drops a dynamic choice that has no such option
            raise ValueError(f"Unknown method: choose one of {', '.join(option.key for option in _METHOD_OPTIONS)}.")
        connected = first(settings) if settings else None
        chosen, run, notes = gathered(
            connected,
            **chosen_method(first(method)),
            **first(values),
        )
        run = with_name(run, first(name) if name else "")
        chosen, recipe_lines = by_its_recipe(connected, chosen, first(model), latents, bool(empty_caption))
        file = named_file(run["name"])
        material = Material(
            latents,
            positive,
            prior_latents or (),
            prior_positive or (),
            empty_caption or (),
            first(clip) if clip else None,
            captions or (),
        )
        reporter = StepReporter(chosen.steps)
        result = train(
            first(model),
            material,
            chosen,
            reporter,
            folder=run_folder(run),
            shown=first(previews) if previews else None,
            on_start=reporter.show,
            on_stop=reporter.show,
            cache=cache_folder() if first(method).get("keep_decomposition") else None,
            notes=recipe_lines,
            file=file,
        )
        written = [] if file is None else write_named(result, file)
        if written or result.early:
            show_text("\n".join(filter(None, [result.early, *written])))
        report = "\n".join([result.report, *notes, *written])
        return io.NodeOutput(
            result.adapter,
            {"loss": [loss for loss in result.losses if not math.isnan(loss)]},  # ComfyUI's plot fails at a NaN
            report,
            loss_plot(result, chosen),
            contact_sheet(result),
            ui={"text": [report], **shown_run(result.folder)},
        )


NODES: list[type[io.ComfyNode]] = [DEFTTrainAdapter]
