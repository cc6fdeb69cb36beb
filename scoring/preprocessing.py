"""Preprocessing of an RGB picture of any size to what a backbone expects, with PIL, as the papers' code does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Preprocess:
    """Shortest side to `resize` px (PIL, antialiased), centre crop of `crop` px, mean and deviation removed.

    as_transformers: where an odd number of pixels is cut, transformers rounds the margin down and torchvision rounds it
    to even, so that non-square pictures differ by one pixel. interpolation: a name of torchvision's InterpolationMode.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    as_transformers: bool = False
    interpolation: str = "bicubic"

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """RGB picture of any size -> float32 [3, crop, crop]."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        picture = F.resize(picture, [self.resize], InterpolationMode(self.interpolation))
        picture = self._crop(picture) if self.as_transformers else F.center_crop(picture, [self.crop, self.crop])
        return F.normalize(F.to_tensor(picture), list(self.mean), list(self.std))

    def _crop(self, picture: Image.Image) -> Image.Image:
        """Centre crop with transformers' margins."""
        left, top = (picture.width - self.crop) // 2, (picture.height - self.crop) // 2
        return picture.crop((left, top, left + self.crop, top + self.crop))

    def __str__(self) -> str:
        """The preprocessing as it is written beside each score."""
        statistics = {IMAGENET: "ImageNet", OPENAI_CLIP: "CLIP"}.get((self.mean, self.std), "own")
        margin = " (margins as transformers)" if self.as_transformers else ""
        return f"resize {self.resize} {self.interpolation}, centre crop {self.crop}{margin}, {statistics} mean and std"
