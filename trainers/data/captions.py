"""The parts of captions beside their text, and how a training uses them.

ComfyUI's sampler shows the network the part of a latent that a caption's area names, weights what comes out with mask
and strength, and does both within the caption's timestep range only. A training learns the same: that part, those
places, at those noise levels. What the sampler does to the model for a caption (ControlNet, hooks, GLIGEN) a training
cannot take along, so that is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..settings.settings import AS_CAPTIONED
from ..step import objective
from .latents import Example

# What changes the model for one caption, and what to do about it.
_REFUSED = {
    "control": ("a ControlNet", "connect the caption to the trainer before Apply ControlNet"),
    "hooks": ("hooks", "connect the caption to the trainer before its hooks, and a CLIP without hooks to its encoder"),
    "gligen": ("GLIGEN boxes", "connect the caption to the trainer before GLIGEN Textbox Apply"),
    "additional_models": ("models of its own", "connect a caption without them"),
    "default": ("the mark of a default for the rest of the picture", "connect it without Cond Set Default Combine"),
}
# Tensors of captions that nodes make of a batch of pictures, even where there is one text for all.
_OF_PICTURES = ("mask", "concat_latent_image", "concat_mask", "concat_image", "pooled_output")
MOST_LINES = 3  # of one thing in the notes


def gather_conditioning(conditioning: Sequence[list], what: str = "caption") -> list:
    """All captions as one conditioning list, each of one row.

    A batch is one caption a row: ComfyUI's sampler gives row i to picture i.

    Raises:
        ValueError: parts of a batch that have other numbers of rows; a reference picture (ComfyUI's ReferenceLatent)
            that is a batch; what changes the model.
    """
    entries: list = []
    for entry in (entry for group in conditioning for entry in group):
        entries += rows_of(entry, f"{what} {len(entries) + 1}")
    for place, (_, extras) in enumerate(entries, 1):
        refuse(extras, f"{what} {place}")
        # A caption is of one picture, so ComfyUI would take the first of the batch and drop the others.
        count = max((len(latent) for latent in extras.get("reference_latents") or ()), default=1)
        if count > 1:
            raise ValueError(
                f"The reference of {what} {place} is a batch of {count} pictures: connect one, or split the batch "
                "with Rebatch Latents, so that each caption gets its own."
            )
    return entries


def guided(entries: Sequence[Any], guidance: float) -> list:
    """Captions with a guidance where they have none of their own; as they are where that is AS_CAPTIONED."""
    if guidance == AS_CAPTIONED:
        return list(entries)
    return [[text, {"guidance": guidance} | extras] for text, extras in entries]


def rows_of(entry: Any, name: str) -> list:
    """A caption's rows as captions of their own; one of one row as it is.

    Tensors beside the text that have as many rows are split, in lists, too; the rest goes to each.
    """
    text, extras = entry
    counts = {key: _count(extras.get(key)) for key in _OF_PICTURES} | {"text": _count(text)}
    count = max(counts.values())
    if count == 1:
        return [entry]
    for key, rows in counts.items():
        if rows not in (1, count):
            raise ValueError(
                f"The {key} of {name} has {rows} rows, but the rest of it has {count}: give one row for all pictures, "
                "or one for each."
            )

    def row(value: Any, place: int) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)([row(item, place) for item in value]) if type(value) in (list, tuple) else value
        return value[place : place + 1] if _count(value) == count else value

    return [[row(text, place), {key: row(value, place) for key, value in extras.items()}] for place in range(count)]


def _count(value: Any) -> int:
    """Rows of a tensor [rows, ...]; 1 of anything else."""
    return len(value) if isinstance(value, Tensor) and value.ndim > 1 else 1


def refuse(extras: dict[str, Any], name: str) -> None:
    """Raise ValueError for what changes the model while a caption is sampled."""
    for key, (feature, advice) in _REFUSED.items():
        value = extras.get(key)
        if value is None or value is False or getattr(value, "hooks", True) == []:
            continue
        raise ValueError(f"{name.capitalize()} has {feature}, which cannot be used in a training: {advice}.")


def check_plain(entries: Sequence[Any], name: str) -> None:
    """Raise ValueError for a stand-in with an area, mask, strength or range: those of the replaced caption count."""
    for _, extras in entries:
        own_parts = [f"its own {key}" for key in ("area", "mask") if extras.get(key) is not None]
        own_parts += ["its own strength"] if strength_of(extras, f"the {name}") != 1 else []
        own_parts += ["its own timestep range"] if levels_of(extras, f"the {name}") else []
        if own_parts:
            raise ValueError(
                f"The {name} has {own_parts[0]}, but that of the captions which it replaces is used: connect it "
                "without."
            )


# --------------------------------------------------------------------------------------------------- parts of a picture


def placed(example: Example, entry: Any, name: str, picture: str) -> Example:
    """A picture, as the network sees latents, as its caption has it learned: the part, the places, levels, weight.

    Raises:
        ValueError: an area outside of the latent, a mask that leaves nothing, an empty timestep range, a strength
            below 0.
    """
    extras = entry[1]
    weight = strength_of(extras, name)
    levels = levels_of(extras, name)
    example = replace(example, weight=weight, levels=levels)
    if extras.get("mask") is not None:
        example = replace(example, mask=masked(example, extras["mask"], name, picture))
    area = area_of(extras, tuple(example.latent.shape[2:]), name, picture)
    if area is None:
        return example
    whole = tuple(example.latent.shape)
    latent, mask = example.latent, example.mask
    axes = len(area) // 2
    if mask is not None:
        mask = mask.view(1, *whole[2:])
    for axis, (size, start) in enumerate(zip(area[:axes], area[axes:], strict=True)):
        latent = latent.narrow(axis + 2, start, size)
        mask = None if mask is None else mask.narrow(axis + 1, start, size)
    if mask is not None and not mask.any():
        raise ValueError(f"The area of {name} and the masks leave nothing of {picture}: enlarge one of them.")
    return replace(
        example,
        latent=latent.contiguous(),
        mask=None if mask is None else mask.contiguous(),
        origin=replace(example.origin, whole=whole, area=area),
    )


def strength_of(extras: dict[str, Any], name: str) -> float:
    """The weight of a caption's pictures: its strength, times that of its mask."""
    strength = float(extras.get("strength", 1.0))
    if extras.get("mask") is not None:
        strength *= float(extras.get("mask_strength", 1.0))
    if not 0 <= strength < math.inf:
        raise ValueError(f"The strength of {name} is {strength:g}: it must be 0 or more.")
    return strength


def levels_of(extras: dict[str, Any], name: str) -> tuple[float, float] | None:
    """A caption's timestep range as shares of the sampling; None for all of it."""
    start = max(extras.get("start_percent", 0.0), extras.get("clip_start_percent", 0.0), 0.0)
    end = min(extras.get("end_percent", 1.0), extras.get("clip_end_percent", 1.0), 1.0)
    if start >= end:
        raise ValueError(
            f"The timestep range of {name} is empty ({start:g} to {end:g}): its end must be after its start."
        )
    return None if (start, end) == (0.0, 1.0) else (float(start), float(end))


def masked(example: Example, mask: Tensor, name: str, picture: str) -> Tensor:
    """The picture's mask within that of its caption, [1, ...] of the latent's size."""
    size = tuple(example.latent.shape[1:])
    caption_mask = objective.latent_mask(mask.detach().cpu().clone(), size)
    if not caption_mask.any():
        raise ValueError(f"The mask of {name} is empty: paint the part that the caption describes.")
    if example.mask is not None:
        caption_mask = caption_mask * example.mask.view_as(caption_mask)
        if not caption_mask.any():
            raise ValueError(f"The mask of {name} leaves nothing of the mask of {picture}: let them overlap.")
    return caption_mask


def area_of(extras: dict[str, Any], dims: tuple[int, ...], name: str, picture: str) -> tuple[int, ...] | None:
    """The part of a latent of these sizes that a caption is of: sizes, then offsets; None for all of it.

    What goes beyond the latent is cut off, as ComfyUI's sampler does it. The bounds of a mask (`set_area_to_bounds`)
    are ComfyUI's own; on latents with a time axis, where it has none, the mask alone counts.
    """
    area = extras.get("area")
    if extras.get("mask") is not None and extras.get("set_area_to_bounds") and len(dims) == 2:
        conds = [{"mask": extras["mask"].detach().cpu().float(), "set_area_to_bounds": True}]
        comfy.samplers.resolve_areas_and_cond_masks_multidim(conds, torch.Size(dims), torch.device("cpu"))
        area = conds[0]["area"]
    if area is None:
        return None
    shares = area[0] == "percentage"
    values = list(area[1:] if shares else area)
    axes = len(values) // 2
    sizes, starts = values[:axes][-len(dims) :], values[axes:][-len(dims) :]  # of the last axes
    lengths = dims[-len(sizes) :]
    if shares:
        sizes = [max(1, round(size * length)) for size, length in zip(sizes, lengths, strict=True)]
        starts = [round(start * length) for start, length in zip(starts, lengths, strict=True)]
    sizes = [*dims[: -len(sizes)], *sizes]
    starts = [*[0] * (len(dims) - len(starts)), *starts]
    if any(start < 0 or start >= length or size < 1 for size, start, length in zip(sizes, starts, dims, strict=True)):
        text = " x ".join(map(str, dims))
        raise ValueError(
            f"The area of {name} lies outside of {picture}, whose latent is {text} (8 pixels each for most models): "
            "move it, or remove it from the caption."
        )
    cut = [min(size, length - start) for size, start, length in zip(sizes, starts, dims, strict=True)]
    return (*cut, *starts)


# ---------------------------------------------------------------------------------------------------------------- notes


def notes(conditioning: Sequence[list], entries: Sequence[Any], what: str = "caption") -> list[str]:
    """Short lines on what is used of captions beside their text. `entries` are the gathered ones."""
    if not entries:
        return []
    count, lines = len(entries), []
    if count > 1:
        given = sum(len(group) for group in conditioning)
        rows = ", rows of a batch," if given < count else ","
        lines.append(f"{count} {what}s{rows} one for each picture")
    for key, text in (("area", "an area, which alone is trained"), ("mask", "a mask")):
        having = [place for place, (_, extras) in enumerate(entries, 1) if extras.get(key) is not None]
        if having:
            lines.append(f"{what}s: {len(having)} of {count} {'has' if len(having) == 1 else 'have'} {text}")
    lines += _unusual_values([levels_of(extras, what) for _, extras in entries], None, what, "timestep range", _range)
    lines += _unusual_values(
        [strength_of(extras, what) for _, extras in entries], 1.0, what, "strength", lambda it: f"{it:g}"
    )
    lines += _unusual_values(
        [extras.get("guidance") for _, extras in entries], None, what, "guidance", lambda it: f"{it:g}"
    )
    return lines


def _range(levels: tuple[float, float]) -> str:
    return f"{100 * levels[0]:g} % to {100 * levels[1]:g} % of the sampling"


def _unusual_values(values: Sequence[Any], usual: Any, what: str, name: str, text: Callable[[Any], str]) -> list[str]:
    """A line for each value that is not the usual one; one for all of them where they are many."""
    unusual = [value for value in dict.fromkeys(values) if value != usual]
    if len(unusual) > MOST_LINES:
        return [f"{what}s: {sum(value != usual for value in values)} of {len(values)} have a {name}"]
    lines = []
    for value in unusual:
        places = [str(place) for place, at_place in enumerate(values, 1) if at_place == value]
        shown = ", ".join(places[:MOST_LINES]) + (" ..." if len(places) > MOST_LINES else "")
        lines.append(f"{name} of {what} {shown}: {text(value)}")
    return lines
