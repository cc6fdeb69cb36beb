"""Small models of all bases that ComfyUI 0.30.0 loads."""

from __future__ import annotations

from . import image_transformers, sd_flux, video

BASES = [*sd_flux.BASES, *image_transformers.BASES, *video.BASES]
