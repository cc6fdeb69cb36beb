"""A training from the node's inputs to the adapter: loading, a run, its result and report."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...deft_ops import adapter as adapters
from ...models.fingerprint import fingerprint
from ...models.source_file import name_of_file
from ...models.titles import title_of
from ..data.material import Dataset, Material
from ..settings import by_recipe, recipes
from ..settings.checkpointing import BY_MEMORY
from ..settings.run import digest
from ..settings.settings import Settings
from ..step import bases, memory
from ..step.decompositions import Decompositions
from ..step.inference_only import without_inference_features
from . import finished, preview_scores, previews, report
from .checkpoints import RunFolder
from .needs import needs_of
from .record import broken_off, has_preview, recorded
from .token import TokenTrainer
from .trainer import Trainer, training_title
from .training_run import StepProgress, TrainingRun


@dataclass
class TrainingResult:
    """A trained adapter with its report. pictures: (step, [n, h, w, 3]) of each preview.

    losses: of all steps; of a run that was finished before as in MadeBefore. title: the method, its rank if it has one,
    and the number of layers. mark: that of the run, the end of its folder's name. folder: that of the run, if it has
    one. file: that of an adapter which the run had made before, and which was not trained again. early: why the
    training has stopped before its last step, if it has.
    """

    adapter: adapters.Adapter
    losses: list[float]
    report: str
    rates: list[float] = field(default_factory=list)
    pictures: list[tuple[int, Tensor]] = field(default_factory=list)
    title: str = ""
    mark: str = ""
    folder: Path | None = None
    file: Path | None = None
    early: str = ""


def train(
    model: Any,
    material: Material,
    settings: Settings,
    on_step: Callable[[StepProgress], None],
    *,
    folder: RunFolder | None = None,
    shown: previews.Previews | None = None,
    on_start: Callable[[str], None] = logging.info,
    on_stop: Callable[[str], None] = logging.info,
    cache: Path | None = None,
    notes: Sequence[str] = (),
    file: Path | None = None,
) -> TrainingResult:
    """Train one adapter on a ComfyUI MODEL and return it under native keys with its metadata.

    Args:
        model: a ModelPatcher; it is loaded, used as it is (patches included) and left as it was.
        material: pictures and captions, and what there may be beside them.
        on_step: called after every step.
        folder: where log and checkpoints go, in a folder of this name and a mark of the settings, pictures and base;
            and from where an earlier run of the same goes on.
        shown: preview pictures.
        on_start: called with layers, trained values, the memory estimate and warnings before the first step.
        on_stop: called with what is kept where the run is interrupted.
        notes: lines on how the settings came about, for on_start and the report.
        cache: a folder for what SVDiff computes of the base, in a folder of the base's own.
        file: where the caller is going to write the adapter. Nothing is written here, but no other training's file may
            be there.

    Raises:
        ValueError: settings out of range, empty latents or those of another model, wrong number of captions, no layer
            to train, a loss that is not a number, a checkpoint of other settings, an adapter that changes nothing, too
            little memory, another file at `file`, another process that trains into the folder.
    """
    settings.check()
    bases.check(model.model)
    if shown is not None:
        shown.check(model, settings.steps)
    loaded_from = name_of_file(model)
    recipe = recipes.recipe_of(model.model, loaded_from)
    notes = [*notes, *filter(None, [by_recipe.noise_note(settings, recipe, title_of(model.model))])]
    if recipe is not None and (warning := recipes.warning_of(recipe, loaded_from)):
        notes.append(f"WARNING: {warning}")
    settings = by_recipe.with_noise(settings, recipe)
    was_training = getattr(comfy.model_management, "in_training", False)
    message = ""
    stack = contextlib.ExitStack()
    try:
        with torch.inference_mode(False):
            dataset = Dataset(model.model, material, settings)
        # Loading happens in the node's inference mode, because it writes to inference tensors.
        patchers = [model] + ([] if dataset.text is None else [dataset.text.clip.patcher])
        shape = [settings.batch_size, *dataset.sizes()[0][1:]]
        comfy.model_management.load_models_gpu(patchers, memory_required=2 * model.memory_required(shape))
        model.pre_run()
        comfy.model_management.in_training = True
        switched_off = stack.enter_context(without_inference_features(*patchers))
        with torch.inference_mode(False), torch.enable_grad():
            identity = report.identity_of(model, settings, dataset)
            if file is not None:
                finished.check_free(file, identity, settings)
            run_folder = named(folder, identity)
            if run_folder is not None:
                stack.enter_context(run_folder.alone())
            made = finished.find(run_folder, file, identity, settings)
            if made is not None and not last_preview_cut_off(run_folder, settings, shown):
                on_start(report.again(made.file))
                return made_before(made, model, settings, identity, run_folder, shown, notes)
            decompositions = Decompositions(None if cache is None else cache / fingerprint(model))
            make = TokenTrainer if settings.trains_token else Trainer
            trainer = make(model, settings, dataset, decompositions)
            trainer.switched_off = switched_off
            needs = needs_of(trainer)
            if trainer.mode == BY_MEMORY:  # before ComfyUI makes room by putting weights away, which costs more
                free = memory.free_for(patchers, model.load_device)
                free_host = comfy.model_management.get_free_memory(torch.device("cpu"))
                trainer.mode, line = needs.choose(free, int(free_host), model.load_device)
                notes.append(line)
            needed = needs.of(trainer.mode)
        with torch.inference_mode():
            comfy.model_management.load_models_gpu(patchers, memory_required=needed.added)
        free = comfy.model_management.get_free_memory(model.load_device)
        lines = [*notes, *report.rate_warnings(settings), *memory.room(needed, free, settings)]
        on_start("\n".join([f"{report.opening(trainer)}; {needed.text()}", *lines]))
        with torch.inference_mode(False), torch.enable_grad():
            run = TrainingRun(trainer, identity, run_folder, shown, on_step, on_stop)
            run.notes += notes
            return trained(trainer, run, needed)
    except Exception as error:
        if not memory.out_of_memory(error):
            raise
        message = memory.advice(settings, error)
    finally:
        stack.close()
        comfy.model_management.in_training = was_training
        model.cleanup()
    # Outside of the handler: the error's frames hold the tensors that filled the memory.
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    raise ValueError(message)


def named(folder: RunFolder | None, identity: dict[str, Any]) -> RunFolder | None:
    """The folder of this run: what decides its result is in the name, so that others do not meet it."""
    return None if folder is None else replace(folder, path=Path(f"{folder.path}_{digest(identity)}"), problems=[])


def last_preview_cut_off(folder: RunFolder | None, settings: Settings, shown: previews.Previews | None) -> bool:
    """Whether a run was interrupted after its last step, while that step's preview was made: it goes on from there."""
    if folder is None or shown is None or settings.steps % shown.every:
        return False
    there = any(step == settings.steps for step, _ in folder.checkpoints())
    return there and broken_off(folder) and not has_preview(folder, settings.steps)


def made_before(
    made: finished.MadeBefore,
    model: Any,
    settings: Settings,
    identity: dict[str, Any],
    folder: RunFolder | None,
    shown: previews.Previews | None,
    notes: Sequence[str],
) -> TrainingResult:
    """The result of a run whose adapter is there already."""
    parsed = adapters.parsed(made.adapter)
    scored: preview_scores.Scored = []
    if folder is not None and shown is not None and shown.judge is not None:
        scored = list(preview_scores.read(folder.preview_lines(), shown.measured()).items())
    names = {*parsed.layers, *(key.rpartition(".")[0] for key in parsed.foreign)}
    made.adapter.run = folder.path if folder else None
    title = training_title(settings, len(names), sum(name.startswith("text_encoders.") for name in names))
    lines = [
        report.again(made.file),
        *notes,
        *report.patched_notes(model),
        *report.before(title, made.losses, settings.steps, made.adapter.training_seconds, shown is not None),
        *preview_scores.summary(scored),
        *report.rate_warnings(settings),
        *[f"WARNING: {problem}" for problem in (folder.problems if folder else ())],
    ]
    return TrainingResult(
        made.adapter,
        made.losses,
        "\n".join(lines),
        made.rates,
        [],
        title,
        digest(identity),
        folder.path if folder else None,
        made.file,
    )


def trained(trainer: Trainer, run: TrainingRun, needed: memory.Estimate) -> TrainingResult:
    """Run the trainer to its end.

    Raises:
        ValueError: the adapter changes nothing or is not finite.
    """
    started = time.perf_counter()
    run.resume()
    first = trainer.step
    with recorded(run.folder, trainer, run.identity) as facts:
        run.run()
        adapter, change = trainer.finish()
        report.effect(change)
        adapter.cost = run.cost(adapter)
        facts["cost"] = asdict(adapter.cost)
        if early := run.early():
            facts["early_stop"] = early
            run.on_stop(early)
    seconds = time.perf_counter() - started
    scored = () if run.scores is None else run.scores.scored
    lines = [
        *[early] * bool(early),
        *run.notes,
        *(() if run.scores is None else run.scores.remarks),
        *preview_scores.summary(scored),
        *report.patched_notes(trainer.model, run.shown),
        report.summary(trainer, change, seconds, trainer.step - first),
        report.cost_line(adapter.cost),
        needed.text(),
        *report.rate_warnings(trainer.settings),
        *report.warnings(trainer, change, run.folder.problems if run.folder else ()),
    ]
    adapter.metadata = report.metadata(trainer, run.identity, change) | adapters.describe(adapter)
    if trainer.step > first:
        adapter.training_seconds = seconds / (trainer.step - first) * trainer.step
    adapter.run = run.folder.path if run.folder else None
    return TrainingResult(
        adapter,
        trainer.losses,
        "\n".join(lines),
        run.rates,
        run.pictures,
        trainer.title(),
        digest(run.identity),
        run.folder.path if run.folder else None,
        early=early,
    )
