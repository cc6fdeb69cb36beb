"""Training Settings and Training Previews: what Train Adapter takes beside its own widgets."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
from comfy_api.v0_0_2 import io

from ..trainers.checkpoints import RunFolder
from ..trainers.objective import LOSSES, TIMESTEPS, WEIGHTINGS
from ..trainers.optimisation import OPTIMIZERS, SCHEDULES
from ..trainers.presets import NONE, PRESETS, with_preset
from ..trainers.previews import Previews
from ..trainers.settings import ADAPTER_PRECISIONS, Settings
from .sockets import TrainingPreviews, TrainingSettings

CATEGORY = "DEFT/training"
DEFAULT: dict[str, Any] = {item.name: item.default for item in fields(Settings)}
RUN_DEFAULT: dict[str, Any] = {"run_name": "training/adapter", "checkpoint_every": 250, "keep": 2, "resume": True}


def combo(name: str, options: Any, tooltip: str, advanced: bool = False) -> io.Combo.Input:
    """A widget of a setting with its default."""
    return io.Combo.Input(name, options=list(options), default=DEFAULT[name], tooltip=tooltip, advanced=advanced)


def number(
    name: str, low: float, high: float, step: float, tooltip: str, advanced: bool = False
) -> io.Int.Input | io.Float.Input:
    """A widget of a setting with its default."""
    if isinstance(DEFAULT[name], int):
        return io.Int.Input(
            name, default=DEFAULT[name], min=int(low), max=int(high), tooltip=tooltip, advanced=advanced
        )
    return io.Float.Input(
        name, default=DEFAULT[name], min=low, max=high, step=step, round=False, tooltip=tooltip, advanced=advanced
    )


def gathered(connected: dict[str, Any] | None, **own: Any) -> tuple[Settings, dict[str, Any], list[str]]:
    """The settings of a training node with those of the connected Training Settings; its run; lines for the report."""
    more = connected or {"preset": NONE, "settings": {}, "run": RUN_DEFAULT}
    name = more["preset"]
    chosen = with_preset(Settings(**{**more["settings"], **own}), name)
    return chosen, more["run"], [] if name == NONE else [f"preset {name}: {PRESETS[name].source}"]


def run_folder(run: dict[str, Any]) -> RunFolder:
    """Where a run's log and checkpoints go: a folder of this name (and more) in ComfyUI's output folder.

    Raises:
        ValueError: a name that leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    path = (output / run["run_name"]).resolve()
    if path == output or output not in path.parents:
        raise ValueError(f"The run name {run['run_name']!r} is not within the output folder: use a name like a/b.")
    return RunFolder(path, run["checkpoint_every"], run["keep"], run["resume"])


class DEFTTrainingSettings(io.ComfyNode):
    """All settings that most people leave as they are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DEFTTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="Optimizer, schedule, objective, choice of layers and checkpoints for Train Adapter. Each "
            "starts at the value that Train Adapter uses without this node.",
            search_aliases=["optimizer", "scheduler", "min snr", "ema", "checkpoint", "resume", "warmup"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[NONE, *PRESETS],
                    default=NONE,
                    tooltip="Settings as published, instead of those here and at the training node (method excepted): "
                    + "; ".join(f"{name}: {preset.source}" for name, preset in PRESETS.items())
                    + ".",
                ),
                combo(
                    "optimizer",
                    OPTIMIZERS,
                    "AdamW and Adafactor come with PyTorch. The others need a package: bitsandbytes (AdamW 8-bit), "
                    "lion-pytorch (learning rate a fifth of AdamW's), prodigyopt (finds its own: set 1).",
                ),
                combo("schedule", SCHEDULES, "How the learning rate falls over the steps, after the warm-up."),
                number("warm_up", 0, 1_000_000, 1, "Steps in which the learning rate rises from 0."),
                number("cycles", 1, 1000, 1, "Restarts of the cosine with restarts.", True),
                number("accumulation", 1, 1024, 1, "Batches a step, one after the other: a larger batch, slowly."),
                number("max_grad_norm", 0.0, 1000.0, 0.1, "Gradients are scaled down to this norm; 0: they are not."),
                number(
                    "ema",
                    0.0,
                    0.9999,
                    0.0001,
                    "Decay of a moving average of the adapter, which is then the result: steadier. 0: none. 0.99 to "
                    "0.999.",
                ),
                number("weight_decay", 0.0, 10.0, 0.001, "Of the optimizer; pulls the adapter's values to zero.", True),
                number("beta1", 0.0, 0.9999, 0.001, "Of the optimizer: memory of the gradient.", True),
                number("beta2", 0.0, 0.99999, 0.0001, "Of the optimizer: memory of the gradient's square.", True),
                number(
                    "p_rate",
                    0.0,
                    100.0,
                    0.01,
                    "DEFT: learning rate of P relative to that of R. 0.1 in the authors' runs.",
                ),
                number("text_rate", 0.0, 100.0, 0.01, "Learning rate of text encoders relative to the model's."),
                combo(
                    "timesteps",
                    TIMESTEPS,
                    "Which noise levels are trained. auto: logit-normal for flow models (SD3, Flux ...), uniform for "
                    "others.",
                ),
                number(
                    "shift", 0.0, 100.0, 0.1, "Moves the noise levels up; 0: as the model does itself. SD3: 3.", True
                ),
                combo(
                    "weighting",
                    WEIGHTINGS,
                    "Weight of a noise level's loss. min-SNR and debiased for all models; sigma_sqrt and cosmap for "
                    "flow models.",
                ),
                number("gamma", 0.01, 100.0, 0.5, "Of min-SNR; its paper has 5.", True),
                combo("loss", LOSSES, "mse as the models were trained; huber and l1 mind outliers less."),
                number("huber", 0.0001, 10.0, 0.01, "Where huber turns from mse to l1.", True),
                number(
                    "noise_offset", 0.0, 1.0, 0.01, "Noise that is the same all over a picture: darker darks.", True
                ),
                number(
                    "caption_dropout",
                    0.0,
                    1.0,
                    0.05,
                    "Share of the captions that are replaced by the empty one (connect it to Train Adapter).",
                ),
                number("prior_weight", 0.0, 100.0, 0.1, "Weight of the prior pictures' loss, if they are connected."),
                io.String.Input(
                    "exclude",
                    default="",
                    advanced=True,
                    tooltip="A regular expression: layers whose path it finds are left out.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    advanced=True,
                    tooltip="Only these blocks, by path: input_blocks.4-8, middle_block; or double_blocks.0-9. Empty: "
                    "all.",
                ),
                io.String.Input(
                    "ranks",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Other ranks, one rule a line: a pattern, '=', a rank, as in attn2 = 4. The first that "
                    "finds a layer counts.",
                ),
                combo(
                    "adapter_precision",
                    ADAPTER_PRECISIONS,
                    "Of the trained values, their gradients and the optimizer's memory. bf16 halves them and loses "
                    "small steps.",
                    True,
                ),
                io.String.Input(
                    "run_name",
                    default=RUN_DEFAULT["run_name"],
                    tooltip="Folder in the output folder for log and checkpoints; a mark of the settings is added, so "
                    "that runs do not meet.",
                ),
                io.Int.Input(
                    "checkpoint_every",
                    default=RUN_DEFAULT["checkpoint_every"],
                    min=0,
                    max=1_000_000,
                    tooltip="Steps between checkpoints; one more is written at the end and when the run is "
                    "interrupted. 0: none.",
                ),
                io.Int.Input(
                    "keep", default=RUN_DEFAULT["keep"], min=1, max=1000, tooltip="How many checkpoints are kept."
                ),
                io.Boolean.Input(
                    "resume",
                    default=RUN_DEFAULT["resume"],
                    tooltip="Go on from the newest checkpoint of the same settings, pictures and model. Off: start "
                    "anew.",
                ),
            ],
            outputs=[TrainingSettings.Output(display_name="settings", tooltip="For Train Adapter.")],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        """Pack them."""
        run = {name: values.pop(name) for name in RUN_DEFAULT}
        run_folder(run)
        return io.NodeOutput({"preset": values.pop("preset"), "settings": values, "run": run})


class DEFTTrainingPreviews(io.ComfyNode):
    """What to sample in the midst of a training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DEFTTrainingPreviews",
            display_name="Training Previews",
            category=CATEGORY,
            description="Samples pictures every so many steps of Train Adapter, always from the same noise: shown at "
            "the node while it trains, and as a contact sheet at its end.",
            search_aliases=["sample", "validation", "preview"],
            inputs=[
                io.Vae.Input("vae", tooltip="To decode the pictures."),
                io.Conditioning.Input("positive", tooltip="The prompt to sample; several make a row of pictures."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, or the empty one."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of the pictures."),
                io.Int.Input("every", default=100, min=1, max=1_000_000, tooltip="Steps between previews."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps of a preview."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance of a preview."),
                io.Combo.Input(
                    "sampler", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler", tooltip="Its sampler."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="Its noise levels.",
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Seed of the noise."),
            ],
            outputs=[TrainingPreviews.Output(display_name="previews", tooltip="For Train Adapter.")],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        positive: list,
        negative: list,
        latent: dict[str, Any],
        every: int,
        steps: int,
        cfg: float,
        sampler: str,
        scheduler: str,
        seed: int,
    ) -> io.NodeOutput:
        """Pack them."""
        return io.NodeOutput(Previews(every, vae, positive, negative, latent, steps, cfg, sampler, scheduler, seed))


NODES: list[type[io.ComfyNode]] = [DEFTTrainingSettings, DEFTTrainingPreviews]
