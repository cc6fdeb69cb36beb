"""Latents, masks and captions as the training loop wants them, and the order in which they come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from . import objective

Conds = dict[str, Any]  # one caption for one size: ComfyUI's COND objects by name


@dataclass(frozen=True)
class Example:
    """A picture, on the CPU: its latent [c, ...] in float32, a mask [1, ...] of its size, the place of its caption."""

    latent: Tensor
    mask: Tensor | None
    caption: int


def gather(latents: Sequence[dict[str, Any]], captions: int, what: str = "pictures") -> list[Example]:
    """All latents one by one, as ordinary (not inference) tensors. Sizes may differ; masks come with the latents.

    Raises:
        ValueError: none at all, nested latents, another number of captions than 1 or one each, a NaN or infinity.
    """
    examples: list[tuple[Tensor, Tensor | None]] = []
    for item in latents:
        samples = item["samples"]
        if getattr(samples, "is_nested", False):
            raise ValueError("Latents of picture and sound together cannot be trained: connect those of pictures.")
        masks = item.get("noise_mask")
        for index, sample in enumerate(samples):
            latent = sample.detach().float().cpu().clone()
            if not torch.isfinite(latent).all():
                raise ValueError(
                    f"The latent of {what[:-1]} {len(examples) + 1} holds a NaN or infinity: check the picture and the "
                    "VAE (fp16 VAEs overflow)."
                )
            mask = None
            if masks is not None:
                mask = objective.latent_mask(masks[index % len(masks)].cpu().clone(), tuple(latent.shape))
                if not mask.any():
                    raise ValueError(f"The mask of {what[:-1]} {len(examples) + 1} is empty: paint what to learn.")
            examples.append((latent, mask))
    if not examples:
        raise ValueError(f"The latents of the {what} are empty: connect at least one encoded picture.")
    if captions not in (1, len(examples)):
        raise ValueError(
            f"There are {captions} captions for {len(examples)} {what}: give one for all, or one for each."
        )
    return [Example(latent, mask, index if captions > 1 else 0) for index, (latent, mask) in enumerate(examples)]


def as_network(model: Any, latent: Tensor) -> Tensor:
    """A latent [c, ...] as the network sees it, [1, c, ...]: scaled, and with a time axis where videos have one.

    Raises:
        ValueError: another model's number of channels.
    """
    wanted = model.latent_format.latent_channels
    if len(latent) != wanted:
        raise ValueError(
            f"The latents have {len(latent)} channels, but {type(model).__name__} wants {wanted}: encode the pictures "
            "with this model's VAE."
        )
    batch = latent[None]
    if model.latent_format.latent_dimensions == 3 and batch.ndim == 4:
        batch = batch.unsqueeze(2)
    scaled: Tensor = model.process_latent_in(batch)
    return scaled


def gather_conditioning(conditioning: Sequence[list]) -> list:
    """All captions as one conditioning list.

    Raises:
        ValueError: a reference picture (ComfyUI's ReferenceLatent) that is a batch.
    """
    entries = [entry for group in conditioning for entry in group]
    for place, (_, extras) in enumerate(entries, 1):
        # A caption is of one picture, so ComfyUI would take the first of the batch and drop the others.
        count = max((len(latent) for latent in extras.get("reference_latents", ())), default=1)
        if count > 1:
            raise ValueError(
                f"The reference of caption {place} is a batch of {count} pictures: connect one, or split the batch "
                "with Rebatch Latents, so that each caption gets its own."
            )
    return entries


def dataset_hash(*parts: Sequence[Any]) -> str:
    """SHA-256 over the values of examples, of encoded captions with all that belongs to them, and over texts."""
    found = hashlib.sha256()
    for part in parts:
        for item in part:
            _add_to_hash(found, (item.latent, item.mask) if isinstance(item, Example) else item)
    return found.hexdigest()


def _add_to_hash(found: Any, value: Any) -> None:
    """Add tensors, numbers and texts, in lists and dictionaries of any depth. Other objects have no values to see."""
    if isinstance(value, Tensor):
        found.update(str(tuple(value.shape)).encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value):
            _add_to_hash(found, (key, value[key]))
    elif isinstance(value, (list, tuple)):
        found.update(f"[{len(value)}]".encode())
        for item in value:
            _add_to_hash(found, item)
    elif isinstance(value, (str, int, float)):
        found.update(f"{len(str(value))} {value}".encode())


# ------------------------------------------------------------------------------------------------------------- captions


class Captions:
    """What the network wants beside the latent, by caption and latent size; encoded when first asked for.

    Some models want the picture's size (SDXL) or tensors of it. Kept on the CPU; a batch is moved when it is used.
    """

    def __init__(self, model: Any, entries: Sequence[Any], device: torch.device) -> None:
        self.model, self.entries, self.device = model, entries, device
        self._known: dict[tuple[int, tuple[int, ...]], Conds] = {}

    def conds(self, caption: int, shape: tuple[int, ...]) -> Conds:
        """Of one caption for latents [1, c, ...] of this shape."""
        key = caption, shape
        if key not in self._known:
            (encoded,) = encode_conditioning(self.model, [self.entries[caption]], shape, self.device)
            self._known[key] = {name: moved(cond, torch.device("cpu")) for name, cond in encoded.items()}
        return {name: moved(cond, self.device) for name, cond in self._known[key].items()}


def encode_conditioning(model: Any, entries: list, shape: Sequence[int], device: torch.device) -> list[Conds]:
    """What the model wants beside the latent, for each caption, as ordinary tensors on `device`.

    shape is that of one latent [1, c, ...].
    """
    blank = torch.zeros(tuple(shape), device=device)
    conds = comfy.samplers.encode_model_conds(
        model.extra_conds, comfy.sampler_helpers.convert_cond(entries), blank, device, "positive", latent_image=blank
    )
    return [
        {
            name: moved(cond.process_cond(batch_size=1, area=None), device, copy=True)
            for name, cond in item["model_conds"].items()
        }
        for item in conds
    ]


def moved(cond: Any, device: torch.device, copy: bool = False) -> Any:
    """The same COND object on a device; copied, because inference tensors cannot be saved for the backward pass."""

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


def groups(conds: Sequence[Conds]) -> list[list[int]]:
    """Positions of a batch's captions, grouped so that each group fits in one forward pass."""
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
