"""Pictures of the adapter as it is in the middle of a training, always of the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...models.titles import title_of
from ..data.batches import dataset_hash
from ..data.kept_latents import vae_hash
from ..settings.run import digest
from .preview_scores import Judge


@dataclass(frozen=True)
class Previews:
    """The pictures to sample every so many steps. `latent` is an empty LATENT of the size of the pictures.

    model: a clone of the trained model that is sampled in its place, with other patches or none; as a distilled base
    without the training adapter that is on it while it is trained. judge: what scores them, if anything does.
    """

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
    model: Any = None
    judge: Judge | None = None

    def check(self, trained: Any, steps: int) -> None:
        """Raise ValueError for a model that is no clone of the trained one: it would not have the trained layers; and
        for scores of previews that do not come within so many steps.
        """
        if self.judge is not None and self.every > steps:
            raise ValueError(
                f"Training Previews is to score previews, and with one every {self.every} steps the {steps} of this "
                "training have none: lower `every`."
            )
        if self.model is not None and self.model.model is not trained.model:
            raise ValueError(
                f"Training Previews has another model ({title_of(self.model.model)}) than the one that is trained "
                f"({title_of(trained.model)}): connect the same loader to both, here without the training adapter."
            )

    def measured(self) -> str:
        """A mark of what the scores of the previews depend on beside the adapter; empty where they are not scored."""
        if self.judge is None:
            return ""
        return digest(
            {
                "judge": self.judge.about,
                "captions": dataset_hash(self.positive, self.negative),
                "latent": list(self.latent["samples"].shape[1:]),
                "sampling": [self.steps, self.cfg, self.sampler, self.scheduler, self.seed],
                "vae": vae_hash(self.vae.get_sd()),
            }
        )


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
