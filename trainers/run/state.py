"""The state of a training, taken, and put back from a checkpoint, which is read and compared with the training first.

A checkpoint can be damaged on the disk. What is wrong with it costs that checkpoint alone, so each is looked through
before anything of it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from ...deft_ops.files import pickles
from ..settings import optimizers

if TYPE_CHECKING:
    from .trainer import Trainer

FORMAT = 1


def read(file: Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises ValueError, its message naming the file, for a damaged or a foreign one."""
    try:
        pickles.check(file)
    except ValueError as error:
        raise ValueError(f"{file.name} cannot be read (it is damaged or not a checkpoint)") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{file.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or type(state.get("format")) is not int or state["format"] != FORMAT:
        raise ValueError(f"{file.name} is not a checkpoint of this version")
    if not isinstance(state.get("identity"), dict) or not _is_plain(state["identity"]):
        raise ValueError(f"{file.name} has no record of what it was made with")
    return state


def _is_plain(value: Any, depth: int = 8) -> bool:
    """Whether a value is of texts, numbers, lists and dictionaries, which can be compared."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, (str, int, float))


def state_of(trainer: Trainer, random: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """The state of a trainer that a run needs to go on: tensors, numbers and lists only."""
    return {
        "identity": identity,
        "step": trainer.step,
        "losses": list(trainer.losses),
        "gradient_norms": list(trainer.gradient_norms),
        "parameters": [parameter.detach().cpu() for parameter in trainer.parameters],
        "average": None if trainer.average is None else [value.cpu() for value in trainer.average.values],
        "optimizer": trainer.optimizer.state_dict(),
        "random": random,
        "loss_scale": None if trainer.scale is None else trainer.scale.state(),
    }


def misfit_of(trainer: Trainer, state: dict[str, Any]) -> str:
    """What of a state `put_back` could not put back; empty if it can."""
    return misfit(
        state,
        state_of(trainer, trainer.random_state(), {}),
        [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]],
        (len(trainer.dataset.examples), len(trainer.dataset.prior)),
        partial(optimizers.parts_of, trainer.settings.optimizer),
    )


def put_back(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a state back, to go on from it. `misfit_of` has looked it through."""
    trainer.assign(state["parameters"])
    saved, own = state["optimizer"], trainer.optimizer.state_dict()["param_groups"]
    # What another version of PyTorch did not know yet is as it is now.
    groups = [now | group for group, now in zip(saved["param_groups"], own, strict=True)]
    trainer.optimizer.load_state_dict({**saved, "param_groups": groups})
    if trainer.average is not None:
        for value, saved in zip(trainer.average.values, state["average"], strict=True):
            value.copy_(saved)
    trainer.step, trainer.losses = state["step"], list(state["losses"])
    trainer.gradient_norms = list(state["gradient_norms"])
    trainer.set_random_state(state["random"])
    if trainer.scale is not None and state.get("loss_scale"):
        trainer.scale.load(state["loss_scale"])


def misfit(
    state: Mapping[str, Any],
    now: Mapping[str, Any],
    parameters: Sequence[Tensor],
    examples: tuple[int, int],
    parts: Callable[[int], set[str] | None],
) -> str:
    """What of a checkpoint cannot be loaded; empty if all can.

    now: the state of the training that is to go on. parameters: of its optimizer, in its order. examples: how many
    pictures and prior pictures there are. parts: what the optimizer keeps of a parameter with so many dimensions, if it
    is PyTorch's, whose tensors have the parameters' sizes; otherwise None.
    """
    step, losses, norms = (state.get(name) for name in ("step", "losses", "gradient_norms"))
    if (
        not _is_count(step)
        or not _are_numbers(losses, finite=False)
        or len(losses) != step
        or not _are_numbers(norms, finite=False)
    ):
        return "its steps and losses"
    for name in ("parameters", "average"):
        if not _are_alike(state.get(name), now[name]):
            return f"its {name}"
    if not _optimizer_fits(state.get("optimizer"), now["optimizer"], parameters, parts):
        return "the state of its optimizer"
    if not _random_fits(state.get("random"), now["random"], examples):
        return "its random numbers"
    scale = state.get("loss_scale")
    if scale is not None and not (_are_numbers(scale) and len(scale) == 3 and min(scale) >= 0 and scale[0] > 0):
        return "its loss scale"
    return ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40


def _is_number(value: Any, finite: bool = True) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not finite or -1e300 < value < 1e300


def _are_numbers(values: Any, finite: bool = True) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(_is_number(value, finite) for value in values)


def _is_sound(value: Any) -> bool:
    """Whether a value is an ordinary tensor without a NaN or infinity."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and bool(torch.isfinite(value.float() if value.is_floating_point() else value).all())
    )


def _are_alike(values: Any, now: Sequence[Tensor] | None) -> bool:
    """Whether these can take the place of the tensors there are now."""
    if now is None or values is None:
        return now is None and values is None
    return (
        isinstance(values, list)
        and len(values) == len(now)
        and all(
            _is_sound(value) and value.is_floating_point() and value.shape == own.shape
            for value, own in zip(values, now)
        )
    )


def _optimizer_fits(
    saved: Any, now: Mapping[str, Any], parameters: Sequence[Tensor], parts: Callable[[int], set[str] | None]
) -> bool:
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        return False
    groups, own_groups = saved.get("param_groups"), now["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own_groups):
        return False
    for group, own in zip(groups, own_groups):
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            return False
        if not all(isinstance(index, int) for index in group["params"]) or group["params"] != own["params"]:
            return False
        # Another version of PyTorch may have other settings.
        if not all(isinstance(name, str) for name in group) or "lr" not in group:
            return False
        if not all(_is_setting(value, own[name]) for name, value in group.items() if name in own):
            return False
    entries = saved["state"]
    if not all(_is_index(index, len(parameters)) and isinstance(entry, dict) for index, entry in entries.items()):
        return False
    # One that lacks a part, or has it in another form than the others, is damaged. Vectors have others in Adafactor,
    # and optimizers with 8 bits have others for small tensors.
    needed = {dimensions: parts(dimensions) for dimensions in {parameters[index].ndim for index in entries}}
    native = None not in needed.values()
    if any((needed[parameters[index].ndim] or set()) - {str(key) for key in entry} for index, entry in entries.items()):
        return False
    forms = {
        (parameters[index].ndim, *sorted((str(key), _kind(value)) for key, value in entry.items()))
        for index, entry in entries.items()
    }
    if native and len(forms) > len({parameters[index].ndim for index in entries}):
        return False
    return all(
        _is_part(str(key), value, parameters[index], native)
        for index, entry in entries.items()
        for key, value in entry.items()
    )


def _is_index(value: Any, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


def _is_setting(value: Any, own: Any) -> bool:
    """Whether a value of the optimizer's settings is of the kind that it has now."""
    if isinstance(own, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(own) == len(value) and all(_is_setting(one, other) for one, other in zip(value, own))
    return _kind(value) == _kind(own) and (not _is_number(own) or _is_number(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


# Parts of PyTorch's optimizers that have a parameter's shape; others may be of its rows or columns.
_WHOLE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "grad_avg", "prev")


def _is_part(name: str, value: Any, parameter: Tensor, native: bool) -> bool:
    """Whether a value can be of the optimizer's state of a parameter."""
    if isinstance(value, dict) and not native:  # bitsandbytes has the quantised state apart
        return all(isinstance(key, str) and _is_part(key, part, parameter, native) for key, part in value.items())
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, (bool, str)) or _is_number(value) or _is_plain(value)
    if not _is_sound(value):
        return False
    if name == "step":
        return value.numel() == 1
    if native and name in _WHOLE:
        return value.shape == parameter.shape and value.is_floating_point()
    if native:
        sizes = zip(value.shape[::-1], parameter.shape[::-1])
        return value.ndim <= parameter.ndim and all(size in (1, own) for size, own in sizes)
    return value.numel() <= 2 * parameter.numel() + 4096


def _random_fits(saved: Any, now: Mapping[str, Any], examples: tuple[int, int]) -> bool:
    if not isinstance(saved, dict):
        return False
    generator = saved.get("generator")
    if not isinstance(generator, Tensor) or generator.dtype != torch.uint8 or generator.layout != torch.strided:
        return False
    if generator.device.type != "cpu" or generator.shape != now["generator"].shape:
        return False
    try:
        torch.Generator().set_state(generator.contiguous())
    except (RuntimeError, TypeError):
        return False
    return all(
        isinstance(saved.get(name), list)
        and all(
            isinstance(batch, list) and batch and all(_is_index(at, count) for at in batch) for batch in saved[name]
        )
        for name, count in zip(("order", "prior_order"), examples)
    )


def finite(value: Any) -> bool:
    """Whether a value of a log's line is a finite number."""
    return _is_number(value) and math.isfinite(value)
