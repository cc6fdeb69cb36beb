"""What the training matrix needs to know of a base: a small model of ComfyUI's class, and what is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import models
from ..architectures import small

TOKENS = 5


@dataclass(frozen=True)
class Base:
    """One class of comfy.supported_models, small.

    name: of the class; another text in `variant` where one class loads several networks ("dev", "fill" ...).
    config: its unet_config, as comfy.model_detection finds it in a file of such a size. Sizes are chosen so that the
    network has under two million values and runs in well under a second on one thread, at least two of each repeated
    block where it has several kinds of places.
    latent: the shape of a LATENT of one picture without the batch axis, as the base's VAE gives it.
    conditioning: a CONDITIONING of one caption from a seed, with all that the base's text nodes put beside it.
    kind: what it is trained like: "unet", "mmdit" (text and picture in one stream or two), "cross" (cross attention),
    "pixel" (no VAE).
    """

    name: str
    config: dict[str, Any]
    latent: tuple[int, ...]
    conditioning: Callable[[int], list]
    kind: str
    variant: str = ""
    extra: dict[str, Any] = field(default_factory=dict)  # unet_extra_config
    coarse: bool = False  # its code turns inputs into the dtype that a weight is stored in
    coarse_once: bool = False  # the same of ComfyUI before 0.30
    make: Callable[[torch.dtype], Any] | None = None  # in place of `config`, where the class takes more than that

    @property
    def title(self) -> str:
        """The base's name in test ids."""
        return f"{self.name} {self.variant}".strip()

    def model(self, dtype: torch.dtype = torch.float32, seed: int = 1) -> Any:
        """A ModelPatcher with random weights stored as `dtype`, computing in it as ComfyUI would on a GPU with it."""
        patcher = self.make(dtype) if self.make else small(self.name, self.config, self.extra, dtype=dtype)
        network = patcher.model.diffusion_model
        network.load_state_dict(models.filled({key: value.shape for key, value in network.state_dict().items()}, seed))
        return patcher

    def latents(self, count: int = 2, seed: int = 2) -> dict[str, Any]:
        """A LATENT of so many pictures."""
        return {"samples": models.random(count, *self.latent, seed=seed)}


def text(width: int = models.TOKEN_WIDTH, pooled: int = 0, **others: Any) -> Callable[[int], list]:
    """A caption of TOKENS tokens, with a pooled embedding if that has a width; `others` are put beside it unchanged."""

    def make(seed: int) -> list:
        extras = dict(others)
        if pooled:
            extras["pooled_output"] = models.random(1, pooled, seed=seed + 1)
        return [[models.random(1, TOKENS, width, seed=seed), extras]]

    return make
