"""Pictures of the adapter as it is in the middle of a training, always of the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor


@dataclass(frozen=True)
class Previews:
    """The pictures to sample every so many steps. `latent` is an empty LATENT of the size of the pictures."""

    every: int
    vae: Any
    positive: list
    negative: list
    latent: dict[str, Any]
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    seed: int


def sample(model: Any, previews: Previews) -> Tensor:
    """One picture for each positive caption [n, h, w, 3] in 0 to 1, of the model as it is. Leaves no trace but time.

    The noise comes from a private generator; samplers that draw from the global one get the seed and give it back.
    """
    empty = comfy.sample.fix_empty_latent_channels(model, previews.latent["samples"][:1])
    state = torch.get_rng_state()
    pictures = []
    try:
        for index, entry in enumerate(previews.positive):
            seed = previews.seed + index
            noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(seed))
            torch.default_generator.manual_seed(seed)
            latent = comfy.sample.sample(
                model,
                noise,
                previews.steps,
                previews.cfg,
                previews.sampler,
                previews.scheduler,
                [entry],
                previews.negative,
                empty,
                disable_pbar=True,
                seed=seed,
            )
            picture = previews.vae.decode(latent)
            pictures.append(picture.reshape(-1, *picture.shape[-3:])[:1].float().cpu())
    finally:
        torch.set_rng_state(state)
    return torch.cat(pictures)
