"""Latents and conditioning as the training loop wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

Conds = dict[str, Any]  # one caption: ComfyUI's COND objects by name


def gather_latents(latents: Sequence[dict[str, Any]]) -> Tensor:
    """All latents as one batch [n, c, ...] float32 of ordinary (not inference) tensors.

    Raises:
        ValueError: none at all, different sizes, or a NaN or infinity.
    """
    samples = [item["samples"] for item in latents]
    count = sum(len(sample) for sample in samples)
    if count == 0:
        raise ValueError("The latents are empty: connect at least one encoded picture.")
    shapes = sorted({tuple(sample.shape[1:]) for sample in samples})
    if len(shapes) > 1:
        sizes = ", ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"The latents have different sizes ({sizes}): scale or crop the pictures to one size first.")
    batch = torch.cat([sample.float() for sample in samples]).clone()
    if not torch.isfinite(batch).all():
        raise ValueError("The latents hold a NaN or infinity: check the pictures and the VAE (fp16 VAEs overflow).")
    return batch


def gather_conditioning(conditioning: Sequence[list], count: int) -> list:
    """All captions as one conditioning list, of length 1 or `count`.

    Raises:
        ValueError: the number of captions is neither 1 nor the number of pictures.
    """
    entries = [entry for group in conditioning for entry in group]
    if len(entries) not in (1, count):
        raise ValueError(f"There are {len(entries)} captions for {count} pictures: give one for all, or one for each.")
    return entries


def encode_conditioning(model: Any, entries: list, shape: Sequence[int], device: torch.device) -> list[Conds]:
    """What the model wants beside the latent, for each caption, as ordinary tensors on `device`.

    shape is that of one latent [1, c, ...].
    """
    blank = torch.zeros(tuple(shape), device=device)
    conds = comfy.samplers.encode_model_conds(
        model.extra_conds, comfy.sampler_helpers.convert_cond(entries), blank, device, "positive", latent_image=blank
    )
    return [
        {name: cloned(cond.process_cond(batch_size=1, area=None), device) for name, cond in item["model_conds"].items()}
        for item in conds
    ]


def cloned(cond: Any, device: torch.device) -> Any:
    """The same COND object with its tensors cloned: inference tensors cannot be saved for the backward pass."""
    if isinstance(cond.cond, Tensor):
        return cond._copy_with(cond.cond.to(device).clone())
    if isinstance(cond.cond, (list, tuple)):
        return cond._copy_with([item.to(device).clone() if isinstance(item, Tensor) else item for item in cond.cond])
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
