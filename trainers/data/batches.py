"""Captions and noise levels as the training loop needs them, and the order in which examples come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...models.titles import title_of
from ..settings.formulas import SAME_SHIFT, SHIFTS
from ..settings.settings import Settings
from ..step import memory, objective
from .latents import UNKNOWN, Example, Origin

Conds = dict[str, Any]  # one caption for one size: ComfyUI's COND objects by name
_SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")  # as captions have them


def dataset_hash(*parts: Sequence[Any]) -> str:
    """SHA-256 over the values of examples, of encoded captions with all that belongs to them, and over texts."""
    digest = hashlib.sha256()
    for part in parts:
        for item in part:
            _add_to_hash(digest, _values(item) if isinstance(item, Example) else item)
    return digest.hexdigest()


def _values(example: Example) -> tuple:
    """The values that decide how a picture is learned, except for its caption."""
    values = (example.latent, example.mask)
    if (example.weight, example.levels, example.origin) == (1.0, None, UNKNOWN):
        return values
    origin = example.origin
    return *values, example.weight, example.levels or (), *(part or () for part in vars(origin).values())


def _add_to_hash(digest: Any, value: Any) -> None:
    """Add tensors, numbers and texts, in lists, dictionaries and ComfyUI's objects of any depth (what a vision encoder
    gives is one).
    """
    if isinstance(value, Tensor):
        digest.update(str(tuple(value.shape)).encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value):
            _add_to_hash(digest, (key, value[key]))
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}]".encode())
        for item in value:
            _add_to_hash(digest, item)
    elif isinstance(value, (str, int, float)):
        digest.update(f"{len(str(value))} {value}".encode())
    elif type(value).__module__.startswith("comfy.") and hasattr(value, "__dict__"):
        _add_to_hash(digest, vars(value))


# ------------------------------------------------------------------------------------------------------------- captions


class Captions:
    """The network's inputs beside the latent, by caption, latent size and origin; encoded when first asked for.

    Some models take the picture's size (SDXL) or tensors of it. Kept on the CPU; a batch is moved when it is used.
    """

    def __init__(self, model: Any, entries: Sequence[Any], device: torch.device) -> None:
        self.model, self.entries, self.device = model, entries, device
        self._known: dict[tuple[int, tuple[int, ...], Origin], Conds] = {}
        self._first: dict[tuple[int, str], Any] = {}

    def conds(self, caption: int, shape: tuple[int, ...], origin: Origin = UNKNOWN) -> Conds:
        """The conditioning of one caption for latents [1, c, ...] of this shape and origin."""
        key = caption, shape, origin
        if key not in self._known:
            entry = self.entries[caption]
            model, whole = LocatedModel(self.model, entry, shape, origin), origin.whole or shape
            with torch.no_grad():  # some models have layers for captions; what is kept must not hold their graph
                (encoded,) = encode_conditioning(model, [entry], whole, self.device)
            self._known[key] = {
                name: self.shared(caption, name, moved(cond, torch.device("cpu"))) for name, cond in encoded.items()
            }
        return {name: moved(cond, self.device) for name, cond in self._known[key].items()}

    def shared(self, caption: int, name: str, cond: Any) -> Any:
        """A COND, or the caption's first of this name if it is equal: texts are kept once, not for each size."""
        first = self._first.setdefault((caption, name), cond)
        same = type(first) is type(cond) and isinstance(cond.cond, Tensor) and isinstance(first.cond, Tensor)
        return first if same and torch.equal(first.cond, cond.cond) else cond


class LocatedModel:
    """A model that gets, when it encodes a caption for latents of `shape`, the origin of those as well.

    Sizes that the caption has of its own (CLIPTextEncodeSDXL) go before those of the picture. As ComfyUI's sampler
    does it, a part of a latent gets what the model takes beside the whole, cut to the part where it is a picture.
    """

    def __init__(self, model: Any, entry: Any, shape: tuple[int, ...], origin: Origin) -> None:
        self.model, self.area = model, list(origin.area)
        self.values: dict[str, Any] = {}
        if (origin.size or origin.crop) and not any(name in entry[1] for name in _SIZES):
            whole = origin.whole or shape
            target = whole[-1] * 8, whole[-2] * 8  # the default of ComfyUI's models
            values = *(origin.size or target), *(origin.crop or (0, 0)), *target
            self.values = dict(zip(_SIZES, values, strict=True))
        if self.area or "area" in entry[1]:
            self.values["area"] = tuple(self.area) or None

    def extra_conds(self, **given: Any) -> Conds:
        """What the model itself makes of a caption, with the origin's values among its arguments."""
        conds = self.model.extra_conds(**given | self.values)
        if not self.area:
            return conds
        return {name: cond.process_cond(batch_size=1, area=self.area) for name, cond in conds.items()}


def encode_conditioning(model: Any, entries: list, shape: Sequence[int], device: torch.device) -> list[Conds]:
    """The model's inputs beside the latent, for each caption, as ordinary tensors on `device`.

    shape is that of one latent [1, c, ...].
    """
    blank = torch.zeros(tuple(shape), device=device)
    conds = comfy.samplers.encode_model_conds(
        model.extra_conds,
        comfy.sampler_helpers.convert_cond(entries),
        blank,
        device,
        "positive",
        latent_image=blank,
        seed=0,  # SD's upscaler adds noise to its small picture
        latent_shapes=[blank.shape],  # LTX-2 asks whether there is sound as well
    )
    return [
        {
            name: moved(cond.process_cond(batch_size=1, area=None), device, copy=True)
            for name, cond in item["model_conds"].items()
        }
        for item in conds
    ]


def moved(cond: Any, device: torch.device, copy: bool = False) -> Any:
    """The COND object on a device; copied, because inference tensors cannot be saved for the backward pass."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device).clone() if copy else tensor.to(device)

    if isinstance(cond.cond, Tensor):
        return cond._copy_with(move(cond.cond))
    if isinstance(cond.cond, (list, tuple)):
        return cond._copy_with([move(item) if isinstance(item, Tensor) else item for item in cond.cond])
    return cond


def alike(first: Conds, second: Conds) -> bool:
    """Whether two captions can be in one batch."""
    return first.keys() == second.keys() and all(first[name].can_concat(second[name]) for name in first)


def groups(conds: Sequence[Conds], alone: bool = False) -> list[list[int]]:
    """Positions of a batch's captions, grouped so that each group fits in one forward pass; `alone`: one each."""
    if alone:
        return [[index] for index in range(len(conds))]
    result: list[list[int]] = []
    for index, cond in enumerate(conds):
        for group in result:
            if alike(conds[group[0]], cond):
                group.append(index)
                break
        else:
            result.append([index])
    return result


def batch(conds: Sequence[Conds]) -> dict[str, Any]:
    """The captions of one forward pass as the model's keyword arguments."""
    joined = comfy.samplers.cond_cat(list(conds))
    return {name: value.cond if hasattr(value, "cond") else value for name, value in joined.items()}


# ---------------------------------------------------------------------------------------------------------------- order


class Order:
    """Batches of places without end, each of one latent size; every place comes once before any comes again."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], batch_size: int, generator: torch.Generator) -> None:
        self.shapes, self.batch_size, self.generator = shapes, batch_size, generator
        self.waiting: list[list[int]] = []

    def next(self) -> list[int]:
        """The next batch: full ones first, then what is left of each size."""
        if not self.waiting:
            open_batches: dict[tuple[int, ...], list[int]] = {}
            for place in torch.randperm(len(self.shapes), generator=self.generator).tolist():
                filling = open_batches.setdefault(self.shapes[place], [])
                filling.append(place)
                if len(filling) == self.batch_size:
                    self.waiting.append(open_batches.pop(self.shapes[place]))
            self.waiting += open_batches.values()
        first, *self.waiting = self.waiting
        return first


# --------------------------------------------------------------------------------------------------------- noise levels


def noise_levels(model: Any, examples: Sequence[Example], generator: torch.Generator, settings: Settings) -> Tensor:
    """Noise levels [n] for examples, each within the range of the settings and the timestep range of its caption.

    Raises:
        ValueError: a range in which (hardly) any noise level lies.
    """
    sampling, timesteps = model.model_sampling, settings.timesteps
    shifts = [shift_of(model, example, settings) for example in examples]
    whole = (settings.lowest_noise, settings.highest_noise) == (0, 1)
    asked = (
        None
        if whole
        else (
            objective.sigma_of(sampling, settings.lowest_noise),
            objective.sigma_of(sampling, settings.highest_noise),
        )
    )
    if all(example.levels is None for example in examples):
        shift = torch.tensor(shifts) if len(set(shifts)) > 1 else shifts[0]
        return objective.sample_sigmas(sampling, len(examples), generator, timesteps, shift, asked)
    return torch.cat(
        [
            objective.sample_sigmas(
                sampling, 1, generator, timesteps, shift, both(sigmas_of(sampling, example.levels), asked)
            )
            for example, shift in zip(examples, shifts, strict=True)
        ]
    )


def shift_of(model: Any, example: Example, settings: Settings) -> float:
    """The shift of an example's noise levels: by its size where the settings have that, else that of the settings."""
    if settings.shift_by_size == SAME_SHIFT:
        return settings.shift
    shape = example.origin.whole or tuple(example.latent.shape)
    pixels = getattr(model.latent_format, "spacial_downscale_ratio", 8)
    frames = shape[2] if len(shape) == 5 else 1
    return SHIFTS[settings.shift_by_size].shift(shape[-1] * pixels, shape[-2] * pixels, frames)


def both(one: tuple[float, float] | None, other: tuple[float, float] | None) -> tuple[float, float] | None:
    """What lies in both ranges; None is the whole."""
    if one is None or other is None:
        return one or other
    return max(one[0], other[0]), min(one[1], other[1])


def sigmas_of(sampling: Any, levels: tuple[float, float] | None) -> tuple[float, float] | None:
    """The lowest and the highest noise level of a part of the sampling, as the sampler holds captions to it."""
    if levels is None:
        return None
    start, end = levels
    return float(sampling.percent_to_sigma(end)), float(sampling.percent_to_sigma(start))


# ---------------------------------------------------------------------------------------------------------------- sizes


@contextmanager
def size_errors(trainer: Any, examples: Sequence[Example]) -> Iterator[None]:
    """Raise ValueError in place of the network's own error where it is the size of the examples that it cannot take.

    That is so where it fails for this size, without gradients, too, and not for the next larger one of those that are
    multiples of 2, 4, 8 ...
    """
    try:
        yield
    except Exception as error:
        if memory.out_of_memory(error) or _takes(trainer, examples[0], tuple(examples[0].latent.shape)):
            raise
        *front, height, width = examples[0].latent.shape
        for step in (2, 4, 8, 16, 32, 64):
            fitting = -(-height // step) * step, -(-width // step) * step
            if fitting == (height, width) or not _takes(trainer, examples[0], (*front, *fitting)):
                continue
            inner = trainer.model.model
            pixels = getattr(inner.latent_format, "spacial_downscale_ratio", 8)
            raise ValueError(
                f"{title_of(inner)} cannot take the latent of {_name(trainer.dataset, examples[0])}, {width} x "
                f"{height} (width x height): the next size that it takes is {fitting[1]} x {fitting[0]}, a picture of "
                f"{fitting[1] * pixels} x {fitting[0] * pixels}."
            ) from error
        raise


@torch.no_grad()
def _takes(trainer: Any, example: Example, shape: tuple[int, ...]) -> bool:
    """Whether the network takes latents [1, c, ...] of this shape, with an example's caption."""
    inner, blank = trainer.model.model, torch.zeros(shape, device=trainer.device)
    try:
        conds = batch([trainer.conds(example.caption, shape)])
        inner.apply_model(blank, inner.model_sampling.sigma_max.reshape(1).to(trainer.device), **conds)
    except Exception:
        return False
    return True


def _name(dataset: Any, example: Example) -> str:
    """A picture by its number."""
    for examples, what in ((dataset.examples, "picture"), (dataset.prior, "prior picture")):
        for place, other in enumerate(examples, 1):
            if other is example:
                return f"{what} {place}"
    return "a picture"
