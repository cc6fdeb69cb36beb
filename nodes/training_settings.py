"""Training Settings and Training Previews: what Train Adapter takes beside its own widgets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
from comfy_api.v0_0_2 import io

from ..deft_ops.settings import MORE, described
from ..trainers.run.checkpoints import RunFolder
from ..trainers.run.previews import Previews
from ..trainers.settings.presets import NONE, PRESETS, with_preset
from ..trainers.settings.settings import Run, Settings, training_settings
from .fields import widgets
from .sockets import TrainingPreviews, TrainingSettings

CATEGORY = "DEFT/training"


def gathered(connected: dict[str, Any] | None, **values: Any) -> tuple[Settings, dict[str, Any], list[str]]:
    """The settings of a training node and of the connected Training Settings; its run; lines for the report."""
    more = connected or {"preset": NONE, "settings": {}, "run": {}}
    name = more["preset"]
    chosen = with_preset(Settings.of(**{**more["settings"], **values}), name)
    return chosen, asdict(Run()) | more["run"], [] if name == NONE else [f"preset {name}: {PRESETS[name].source}"]


def run_folder(run: dict[str, Any]) -> RunFolder:
    """The folder of a run's log and checkpoints: one of this name (and more) in ComfyUI's output folder.

    Raises:
        ValueError: a name that leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
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
            description="Optimizer, schedule, objective, choice of layers and checkpoints for Train Adapter. Each "
            "starts at the value that Train Adapter uses without this node.",
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
                    tooltip="Settings as published, instead of those here and at the training node (method excepted). "
                    "The help page lists them with their sources.",
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
        """Pack them."""
        run = asdict(Run.of(**{name: values.pop(name) for name in described(Run) if name in values}))
        run_folder(run)
        return io.NodeOutput({"preset": values.pop("preset"), "settings": values, "run": run})


class DEFTTrainingPreviews(io.ComfyNode):
    """The node of the pictures to sample in the midst of a training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: captions and how to sample them; one socket for Train Adapter."""
        return io.Schema(
            node_id="DEFTTrainingPreviews",
            display_name="Training Previews",
            category=CATEGORY,
            description="Samples pictures every so many steps of Train Adapter, always from the same noise: shown at "
            "the node while it trains, and as a contact sheet at its end.",
            search_aliases=["sample", "validation", "preview", "sample while training", "训练预览", "样图"],
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
