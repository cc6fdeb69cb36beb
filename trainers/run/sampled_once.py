"""Pictures of adapters with the same prompts and seeds, each of them sampled once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
from torch import Tensor

from ..data.kept_latents import vae_hash
from ..settings.run import digest
from .kept_pictures import KeptPictures, model_key
from .previews import Previews, sample
from .report import described


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled, and with what."""

    model: Any
    clip: Any
    vae: Any
    latent: dict[str, Any]
    negative: str
    steps: int
    cfg: float
    sampler: str
    scheduler: str

    def about(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """What all pictures are made of. graph: the nodes behind model, clip and vae."""
        patches = getattr(self.clip.patcher, "patches", {})
        return {
            "model": model_key(self.model),
            "clip": vae_hash(self.clip.cond_stage_model.state_dict()),
            "clip_patches": digest({str(key): described(patches[key]) for key in sorted(patches, key=str)}),
            "vae": f"{vae_hash(self.vae.get_sd())} {self.vae.vae_dtype}",
            "graph": digest(dict(graph)),
            "latent": list(self.latent["samples"].shape[1:]),
            "negative": self.negative,
            "steps": self.steps,
            "cfg": self.cfg,
            "sampler": self.sampler,
            "scheduler": self.scheduler,
        }

    def encoded(self, clip: Any, text: str) -> list:
        """A prompt as CONDITIONING."""
        entries: list = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return entries

    def picture(self, model: Any, positive: list, negative: list, seed: int) -> Tensor:
        """One picture [h, w, 3]."""
        how = Previews(
            1, self.vae, positive[:1], negative, self.latent, self.steps, self.cfg, self.sampler, self.scheduler, seed
        )
        return sample(model, how)[0]


class SampledOnce:
    """Makes the pictures that are not kept yet. made: how many it has sampled.

    about: what all of them are made of. progress: called with the number of pictures that are done.
    """

    def __init__(
        self, sampling: Sampling, kept: KeptPictures, about: Mapping[str, Any], progress: Callable[[int], object]
    ) -> None:
        self.sampling, self.kept, self.about, self.progress = sampling, kept, about, progress
        self.done = self.made = 0

    def pictures(
        self,
        adapter: Mapping[str, Any],
        applied: Callable[[], tuple[Any, Any]],
        prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> list[Path]:
        """The files of an adapter's pictures: all seeds of the first prompt, then of the next one.

        adapter: what distinguishes it from the others. applied: gives MODEL and CLIP with it; called where a picture
        is sampled.
        """
        cells = [(prompt, seed) for prompt in prompts for seed in seeds]
        abouts = [{**self.about, **adapter, "prompt": prompt, "seed": seed} for prompt, seed in cells]
        lacking = [place for place, about in enumerate(abouts) if not self.kept.has(about)]
        self._count(len(cells) - len(lacking))
        if lacking:
            model, clip = applied()
            negative = self.sampling.encoded(clip, self.sampling.negative)
            texts = dict.fromkeys(cells[place][0] for place in lacking)
            entries = {text: self.sampling.encoded(clip, text) for text in texts}
            for place in lacking:
                comfy.model_management.throw_exception_if_processing_interrupted()
                prompt, seed = cells[place]
                self.kept.keep(abouts[place], self.sampling.picture(model, entries[prompt], negative, seed))
                self.made += 1
                self._count(1)
        return [self.kept.file(about) for about in abouts]

    def _count(self, more: int) -> None:
        self.done += more
        self.progress(self.done)
