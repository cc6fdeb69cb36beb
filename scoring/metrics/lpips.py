"""DIV, DreamBooth's diversity (arXiv 2208.12242, section 4.3): LPIPS (arXiv 1801.03924) of pictures of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from .base import Metric, OfPictures
from .diversity import check_several

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..backbones import Backbone


def lpips(backbone: Backbone, one: Image.Image, other: Image.Image) -> float:
    """LPIPS of two RGB pictures of one size, 0 for equal ones. Raises ValueError for two sizes."""
    import torch
    from torchvision.transforms.functional import to_tensor

    if one.size != other.size:
        raise ValueError(
            f"LPIPS compares pictures of one size, these are {one.width} x {one.height} and "
            f"{other.width} x {other.height}."
        )
    backbone.before_use()
    pair = [to_tensor(picture)[None].to(backbone.place) * 2 - 1 for picture in (one, other)]
    with torch.no_grad():
        return float(backbone.module(*pair))


def lpips_within(backbone: Backbone, images: Sequence[Image.Image], same: Sequence[Image.Image]) -> torch.Tensor:
    """LPIPS of every pair of pictures: n twice -> [n (n - 1) / 2]. Raises ValueError for pictures of several sizes."""
    import torch

    return torch.tensor(
        [lpips(backbone, images[one], same[other]) for one, other in combinations(range(len(images)), 2)],
        dtype=torch.float64,
    )


METRIC = Metric(
    "DIV",
    "higher",
    "mean LPIPS between pictures of one prompt (DreamBooth's diversity)",
    (OfPictures(pairing="within", role="within", check=check_several, formula=lpips_within),),
)
