"""What happens between the steps of a training: log, checkpoints, previews with their scores, stops, failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...deft_ops import adapter as adapters
from ...deft_ops.costs import TrainingCost
from . import preview_scores, previews, report
from .checkpoints import RunFolder
from .meter import Meter
from .preview_scores import PreviewScores
from .record import has_preview, keep_preview
from .state import misfit_of, put_back, state_of
from .trainer import Trainer


@dataclass
class StepProgress:
    """The numbers of a step that has ended. folder: that of the run, if it has one. scored: all previews so far that
    are scored, with their steps.
    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    seconds: float
    rate: float = 0.0
    pictures: Tensor | None = None
    folder: Path | None = None
    scored: preview_scores.Scored = ()


class TrainingRun:
    """A trainer with its folder and previews: what happens between the steps."""

    def __init__(
        self,
        trainer: Trainer,
        identity: dict[str, Any],
        folder: RunFolder | None,
        shown: previews.Previews | None,
        on_step: Callable[[StepProgress], None],
        on_stop: Callable[[str], None] = logging.info,
    ) -> None:
        self.trainer, self.identity, self.folder, self.shown, self.on_step = trainer, identity, folder, shown, on_step
        self.on_stop = on_stop
        self.meter = Meter(trainer.device)
        self.pictures: list[tuple[int, Tensor]] = []
        self.rates: list[float] = []
        self.notes: list[str] = []
        judge = None if shown is None else shown.judge
        self.scores = None if shown is None or judge is None else PreviewScores(judge, shown.measured())

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if self.folder is None:
            return
        state = self.folder.newest(self.identity, self.trainer.settings.steps, partial(misfit_of, self.trainer))
        if state is not None:
            put_back(self.trainer, state)
            self.trainer.resumed = self.folder.checkpoint(state["step"]).name
        if self.scores is not None and self.trainer.step:
            self.scores.go_on(self.folder.preview_lines(), self.trainer.step)
            self.spare()
        if state is not None:
            step, steps = state["step"], self.trainer.settings.steps
            again = step == steps or self.over
            self.notes.append(
                report.again(self.folder.path) if again else f"resumed at step {step} from {self.folder.path}"
            )
        self.folder.start_log(self.trainer.step)
        self.meter.go_on(self.folder.lines(self.trainer.step))

    def run(self) -> None:
        """Run all steps that are left. An interruption or a failure saves a checkpoint of the last whole step first."""
        trainer, settings = self.trainer, self.trainer.settings
        with trainer.prepared():
            random = trainer.random_state()
            saved = trainer.step
            try:
                if self.shown is not None and self.first_preview(self.shown):
                    self.preview(self.shown)
                self.meter.start()
                while trainer.step < settings.steps and not self.over:
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    random = trainer.random_state()
                    started = time.perf_counter()
                    loss, norm, rate = trainer.take_step()
                    random = trainer.random_state()
                    self.rates.append(rate)
                    progress = StepProgress(
                        trainer.step, settings.steps, loss, norm, time.perf_counter() - started, rate
                    )
                    cost = self.meter.step(progress.seconds)
                    if self.folder is not None:
                        progress.folder = self.folder.path
                        record = {"step": trainer.step, "loss": loss, "rate": rate, "grad_norm": norm}
                        self.folder.log(record | cost)
                        if self.folder.every and (
                            trainer.step % self.folder.every == 0 or trainer.step == settings.steps
                        ):
                            self.save(random)
                            saved = trainer.step
                    if self.shown is not None and trainer.step % self.shown.every == 0:
                        progress.pictures = self.preview(self.shown)
                        if self.worth_keeping and trainer.step > saved:
                            self.save(random)
                            saved = trainer.step
                        self.meter.start()
                    progress.scored = [] if self.scores is None else self.scores.scored
                    self.on_step(progress)
            except BaseException as error:
                diverged = isinstance(error, ValueError)  # what is not a number must not replace what was good
                if self.folder is not None and self.folder.every and trainer.step > saved and not diverged:
                    try:
                        self.save(random)
                    except Exception as second:  # the first one is what the user needs to read
                        logging.warning(f"The last steps could not be saved: {second}")
                if isinstance(error, comfy.model_management.InterruptProcessingException):
                    self.on_stop(self.stopped())
                raise

    @property
    def over(self) -> bool:
        """Whether the previews have got worse for long enough to stop."""
        return self.scores is not None and self.scores.over

    @property
    def worth_keeping(self) -> bool:
        """Whether the step of the newest preview is kept: where a training is to stop when it gets worse, the best one,
        and the one at which it stops.
        """
        if self.folder is None or not self.folder.every or self.scores is None or not self.scores.judge.stop_after:
            return False
        return self.over or self.scores.best == self.trainer.step

    def spare(self) -> None:
        """Let the checkpoint of the best preview stay, where a training is to stop when it gets worse."""
        if self.folder is not None and self.scores is not None and self.scores.judge.stop_after:
            self.folder.spared = self.scores.best

    def early(self) -> str:
        """Why the run has ended before its last step; empty where it has not."""
        if self.scores is None or not self.over or self.trainer.step >= self.trainer.settings.steps:
            return ""
        file = None if self.folder is None else self.folder.adapter(self.scores.best)
        kept = str(file) if file is not None and file.is_file() else ""
        return preview_scores.why_stopped(self.scores.scored, self.trainer.step, self.trainer.settings.steps, kept)

    def stopped(self) -> str:
        """What an interrupted run says, by what lies in its folder."""
        folder, step = self.folder, self.trainer.step
        on = folder is not None and folder.every > 0
        steps = [at for at, _ in folder.checkpoints() if at <= step] if folder is not None and on else []
        resume = folder is not None and folder.resume
        return report.stopped(step, self.trainer.settings.steps, max(steps, default=0), resume, on)

    def save(self, random: dict[str, Any]) -> None:
        """Write a checkpoint."""
        assert self.folder is not None
        trainer = self.trainer
        adapter, change = trainer.finish()
        adapter.metadata = report.metadata(trainer, self.identity, change) | adapters.describe(adapter)
        adapter.cost = self.cost(adapter)
        self.folder.save(state_of(trainer, random, self.identity), adapter)

    def first_preview(self, shown: previews.Previews) -> bool:
        """Whether a preview comes before the first step: of the model before the training, for those of later steps to
        be compared with; or of the step that the run goes on from, where an interruption has cut it off.
        """
        step = self.trainer.step
        if step == 0:
            return shown.every <= self.trainer.settings.steps
        lacking = self.folder is not None and not has_preview(self.folder, step)
        lacking |= self.scores is not None and step not in self.scores.values
        return step % shown.every == 0 and lacking and not self.over

    def cost(self, adapter: adapters.Adapter) -> TrainingCost:
        """What the training has cost up to this step, whose adapter this is."""
        values = sum(parameter.numel() for parameter in self.trainer.parameters)
        size = sum(tensor.numel() * tensor.element_size() for tensor in adapter.values())
        return self.meter.cost(self.trainer.step, values, size)

    def preview(self, shown: previews.Previews) -> Tensor:
        """Make the preview pictures of this step, and keep them."""
        pictures = self.sample(shown)
        self.pictures.append((self.trainer.step, pictures))
        keep_preview(self.folder, self.trainer.step, pictures)
        return pictures

    def sample(self, shown: previews.Previews) -> Tensor:
        """Make preview pictures of the adapter as it is."""
        trainer = self.trainer
        with torch.inference_mode(), trainer.averaged():
            trainer.refresh()
            trainer.release()
            pictures = previews.sample(shown.model or trainer.model, shown)
            self.rate(pictures)
            # Sampling ends with the model put away, and the VAE may have pushed it out.
            comfy.model_management.load_models_gpu([trainer.model])
            trainer.model.pre_run()
            trainer.loaded_again()
        return pictures.clone()

    def rate(self, pictures: Tensor) -> None:
        """Score the previews of this step, where that is asked for, and log it. Scorers may take the model's place in
        the memory.
        """
        if self.scores is None:
            return
        line = self.scores.add(self.trainer.step, pictures)
        if line is not None and self.folder is not None:
            self.folder.log(line)
        self.spare()
