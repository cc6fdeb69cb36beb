"""Preprocessing of an RGB picture of any size to what a backbone expects, with PIL, as the papers' code does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Preprocess:
    """Shortest side to `resize` px (PIL, antialiased), centre crop of `crop` px, mean and deviation removed.

    as_transformers: where an odd number of pixels is cut, transformers rounds the margin down and torchvision rounds it
    to even, so that non-square pictures differ by one pixel. interpolation: a name of torchvision's InterpolationMode.
    square: the whole picture is made a square of `crop` px, whatever its proportions, and nothing is cut. in_floats:
    floats are resized, without PIL's rounding to 8 bits.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    as_transformers: bool = False
    interpolation: str = "bicubic"
    square: bool = False
    in_floats: bool = False

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """RGB picture of any size -> float32 [3, crop, crop]."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        mean, std, mode = list(self.mean), list(self.std), InterpolationMode(self.interpolation)
        if self.square:
            pixels: Any = F.to_tensor(picture) if self.in_floats else picture
            pixels = F.resize(pixels, [self.crop, self.crop], mode, antialias=True)
            return F.normalize(pixels if self.in_floats else F.to_tensor(pixels), mean, std)
        picture = F.resize(picture, [self.resize], mode)
        picture = self._crop(picture) if self.as_transformers else F.center_crop(picture, [self.crop, self.crop])
        return F.normalize(F.to_tensor(picture), mean, std)

    def _crop(self, picture: Image.Image) -> Image.Image:
        """Centre crop with transformers' margins."""
        left, top = (picture.width - self.crop) // 2, (picture.height - self.crop) // 2
        return picture.crop((left, top, left + self.crop, top + self.crop))

    def __str__(self) -> str:
        """The preprocessing as it is written beside each score."""
        statistics = {IMAGENET: "ImageNet", OPENAI_CLIP: "CLIP"}.get((self.mean, self.std), "own")
        if self.square:
            statistics = {HALF: "0.5 as", UNCHANGED: "no"}.get((self.mean, self.std), statistics)
            floats = " in floats" if self.in_floats else ""
            return f"resize to {self.crop} x {self.crop} {self.interpolation}{floats}, {statistics} mean and std"
        margin = " (margins as transformers)" if self.as_transformers else ""
        return f"resize {self.resize} {self.interpolation}, centre crop {self.crop}{margin}, {statistics} mean and std"
