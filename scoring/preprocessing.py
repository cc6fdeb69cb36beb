"""From ComfyUI's IMAGE tensors to what a backbone expects, through 8-bit PIL pictures as the papers' code does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def to_pictures(images: torch.Tensor, what: str = "images") -> list[Image.Image]:
    """IMAGE [B, H, W, C] in 0..1 -> RGB pictures, in 8 bits as ComfyUI's Save Image writes them (truncated).

    C is 1 (grey), 3, or 4: alpha is laid on white, as DreamBench++ does. `what` names the input in errors.
    Raises ValueError for an empty batch, another shape, and values that are not finite.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{what}: expected pictures [count, height, width, 1, 3 or 4], got {list(images.shape)}.")
    if images.numel() == 0:
        raise ValueError(f"{what}: the batch is empty; connect at least one picture.")
    bad = [str(i) for i, image in enumerate(images) if not torch.isfinite(image).all()]
    if bad:
        raise ValueError(f"{what}: picture {', '.join(bad)} holds NaN or infinite values; check the node that made it.")
    rows = np.clip(255.0 * images.detach().cpu().float().numpy(), 0, 255).astype(np.uint8)
    return [_on_white(row) for row in rows]


def _on_white(row: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] -> RGB."""
    if row.shape[-1] == 1:
        return Image.fromarray(row[..., 0], "L").convert("RGB")
    if row.shape[-1] == 3:
        return Image.fromarray(row)
    picture = Image.fromarray(row, "RGBA")
    canvas = Image.new("RGB", picture.size, (255, 255, 255))
    canvas.paste(picture, mask=picture.getchannel("A"))
    return canvas


@dataclass(frozen=True)
class Preprocess:
    """Shortest side to `resize` px (PIL bicubic, antialiased), centre crop of `crop` px, mean and deviation removed.

    as_transformers: where an odd number of pixels is cut, transformers rounds the margin down and torchvision rounds it
    to even, so that non-square pictures differ by one pixel.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    as_transformers: bool = False

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of any size -> float32 [count, 3, crop, crop]."""
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

        transform = Compose([Resize(self.resize, InterpolationMode.BICUBIC),
                             self._crop if self.as_transformers else CenterCrop(self.crop),
                             ToTensor(), Normalize(self.mean, self.std)])
        return torch.stack([transform(picture) for picture in pictures])

    def _crop(self, picture: Image.Image) -> Image.Image:
        """Centre crop with transformers' margins."""
        left, top = (picture.width - self.crop) // 2, (picture.height - self.crop) // 2
        return picture.crop((left, top, left + self.crop, top + self.crop))

    def __str__(self) -> str:
        """What is written beside each score."""
        statistics = {IMAGENET: "ImageNet", OPENAI_CLIP: "CLIP"}.get((self.mean, self.std), "own")
        margin = " (margins as transformers)" if self.as_transformers else ""
        return f"resize {self.resize} bicubic, centre crop {self.crop}{margin}, {statistics} mean and std"
