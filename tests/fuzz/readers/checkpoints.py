"""A training's checkpoint, from which the training goes on: damaged ones are reported, and the training begins anew."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from .. import applying
from ..kit import Files, Reader
from ..structures import LEAVES, tensor
from .pickled import saved

FILE = "checkpoint_00000002.pt"
STEPS = 4


@functools.cache
def trainer() -> tuple[Any, dict[str, Any]]:
    """A trainer of a small model, ready for a step, and what it was made with."""
    import comfy.model_management

    from deft_pack.trainers.data.material import Dataset, Material
    from deft_pack.trainers.run import report
    from deft_pack.trainers.run.trainer import Trainer
    from deft_pack.trainers.settings.settings import Settings
    from deft_pack.trainers.step.decompositions import Decompositions

    from ...comfy import models

    model = applying.model().clone()
    chosen = Settings(method="deft", learning_rate=1e-3, rank=2, steps=STEPS, layers="attention", ema=0.5, batch_size=1)
    material = Material([models.latents(model, 3)], [models.conditioning()])
    dataset = Dataset(model.model, material, chosen)
    comfy.model_management.load_models_gpu([model])
    model.pre_run()
    identity = report.identity_of(model, chosen, dataset)
    return Trainer(model, chosen, dataset, Decompositions(None)), identity


@functools.cache
def _start() -> dict[str, Any]:
    from deft_pack.trainers.run.state import state_of

    made, identity = trainer()
    return copied(state_of(made, made.random_state(), identity))


@functools.cache
def state() -> dict[str, Any]:
    """What a checkpoint of the second step holds."""
    from deft_pack.trainers.run.state import state_of

    made, identity = trainer()
    _start()
    with made.prepared():
        made.take_step()
        made.take_step()
    return {"format": 1, **copied(state_of(made, made.random_state(), identity))}


def copied(value: Any) -> Any:
    """The value, with tensors of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def samples() -> list[Files]:
    """A checkpoint."""
    return [{FILE: saved(state())}]


_VALUES = st.one_of(LEAVES, tensor((3,), (2, 2)), st.sampled_from(([], {}, [1], {"a": 1}, [[0]], [[7]], [["a"]])))


@st.composite
def structures(draw: Any) -> Files:
    """A checkpoint with some places that hold something else."""
    content = copied(state())
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        places = list(_places(content))
        holder, key = draw(st.sampled_from(places))
        old = holder[key]
        kind = draw(st.sampled_from(("replace", "replace", "near", "near", "remove")))
        if kind == "near" and isinstance(old, Tensor):
            holder[key] = draw(tensor(tuple(old.shape)))
        elif kind == "remove":
            del holder[key]
        else:
            holder[key] = copied(draw(_VALUES))
    try:
        return {FILE: saved(content)}
    except RuntimeError:
        return {FILE: b""}


def _places(value: Any, depth: int = 0) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        for _ in range(max(1, 12 >> (2 * depth))):  # those near the top more often
            yield value, key
        yield from _places(inner, depth + 1)


def use(folder: Path) -> None:
    """Resume the training, and go one step on."""
    from deft_pack.trainers.run.checkpoints import RunFolder
    from deft_pack.trainers.run.training_run import TrainingRun

    made, identity = trainer()
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        _begin_anew(made)
        run = TrainingRun(made, identity, RunFolder(folder, 1), None, lambda progress: None)
        run.resume()
        first = made.step
        if first < STEPS:
            with made.prepared():
                made.take_step()
        made.finish()
        assert len(made.losses) == made.step, f"{made.step} steps and {len(made.losses)} losses"
        float(sum(made.losses))
        float(sum(made.gradient_norms))
    finally:
        logging.getLogger().setLevel(level)
    if not first:
        assert _is_untouched(made, folder)
        raise ValueError(" ".join(run.folder.problems if run.folder else ()))


def _begin_anew(made: Any) -> None:
    from deft_pack.trainers.settings import optimizers  # noqa: F401

    start = copied(_start())
    with torch.no_grad():
        made.assign(start["parameters"])
    made.optimizer.state.clear()
    made.optimizer.load_state_dict(start["optimizer"])
    if made.average is not None:
        for value, saved_value in zip(made.average.values, start["average"], strict=True):
            value.copy_(saved_value)
    made.step, made.losses, made.gradient_norms = 0, [], []
    made.set_random_state(start["random"])


@functools.cache
def _first_loss() -> float:
    made, _ = trainer()
    _begin_anew(made)
    with made.prepared():
        made.take_step()
    return float(made.losses[0])


def _is_untouched(made: Any, folder: Path) -> bool:
    """Whether the step was that of a new training, as if there had been no checkpoint."""
    return made.step == 1 and float(made.losses[0]) == _first_loss()


READER = Reader("checkpoints", samples, structures, use, share=1)
