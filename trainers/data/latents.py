"""The latents and masks of LATENT dicts, checked and as single pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.titles import title_of
from ..step import objective


@dataclass(frozen=True)
class Origin:
    """The picture that a latent was taken from. Some models take its sizes beside the caption (SDXL).

    size: width and height of the picture before it was scaled. crop: what was cut off of it on the left and above, as
    it was scaled. whole: the shape [1, c, ...] of the latent that this one is a part of; area: that part, as
    ComfyUI's COND objects take it: sizes, then offsets.
    """

    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    whole: tuple[int, ...] | None = None
    area: tuple[int, ...] = ()


UNKNOWN = Origin()


@dataclass(frozen=True)
class Example:
    """A picture, on the CPU: its latent [c, ...] in float32, a mask [1, ...] of its size, the place of its caption.

    empty: the place of the caption that stands in for it under caption dropout. weight: of its loss. levels: the part
    of the sampling, in shares of its length, whose noise levels it is learned at.
    """

    latent: Tensor
    mask: Tensor | None
    caption: int
    empty: int | None = None
    weight: float = 1.0
    levels: tuple[float, float] | None = None
    origin: Origin = UNKNOWN

    @property
    def stand_in(self) -> int:
        """The place of the caption under caption dropout."""
        return self.caption if self.empty is None else self.empty


def gather(model: Any, latents: Sequence[dict[str, Any]], captions: int, what: str = "pictures") -> list[Example]:
    """All latents one by one, as ordinary (not inference) tensors. Sizes may differ; masks come with the latents.

    Raises:
        ValueError: none at all, those of something else than `model` makes, another number of captions than 1 or one
            each, a NaN or infinity, an empty mask.
    """
    examples: list[tuple[Tensor, Tensor | None, Origin]] = []
    for item in latents:
        samples, first = item["samples"], len(examples) + 1
        check_kind(model, item, f"{what[:-1]} {first}")
        masks, origins = item.get("noise_mask"), origins_of(item, f"{what[:-1]} {first}")
        for index, sample in enumerate(samples):
            latent = sample.detach().float().cpu().clone()
            if not torch.isfinite(latent).all():
                raise ValueError(
                    f"The latent of {what[:-1]} {len(examples) + 1} holds a NaN or infinity: check the picture and the "
                    "VAE (fp16 VAEs overflow)."
                )
            mask = None
            if masks is not None:
                mask = objective.latent_mask(masks[index % len(masks)].cpu().clone(), tuple(latent.shape))
                if not mask.any():
                    raise ValueError(f"The mask of {what[:-1]} {len(examples) + 1} is empty: paint what to learn.")
            examples.append((latent, mask, origins[index]))
    if not examples:
        raise ValueError(f"The latents of the {what} are empty: connect at least one encoded picture.")
    if captions not in (1, len(examples)):
        raise ValueError(
            f"There are {captions} captions for {len(examples)} {what}: give one for all, or one for each."
        )
    return [
        Example(latent, mask, index if captions > 1 else 0, origin=origin)
        for index, (latent, mask, origin) in enumerate(examples)
    ]


# Of LATENT dicts that hold something else than pictures, by what ComfyUI's nodes write into `type`.
_KINDS = {"audio": "sound", "hunyuan3dv2": "a 3D shape"}


def check_kind(model: Any, item: dict[str, Any], first: str) -> None:
    """Raise ValueError for a LATENT that is nothing `model` can learn a picture from. `first`: its first picture."""
    samples = item["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            f"The latent of {first} contains picture and sound, which cannot be trained: connect one of pictures only."
        )
    if not len(samples):
        raise ValueError("The latents of the pictures are empty: connect at least one encoded picture.")
    layout, name = model.latent_format, title_of(model)
    channels, axes = layout.latent_channels, layout.latent_dimensions
    expected = {
        1: "no pictures, and this pack trains on pictures only",
        2: f"pictures: [batch, {channels}, height, width]",
    }.get(axes, f"pictures or videos: [batch, {channels}, frames, height, width], or without frames")
    kind = _KINDS.get(item.get("type", ""))
    if kind is not None:
        raise ValueError(f"The latent of {first} is {kind}, but {name} needs {expected}.")
    shape = " x ".join(map(str, samples.shape))
    if axes == 1 or samples.ndim - 2 not in (2, axes):
        raise ValueError(
            f"The latent of {first} has {samples.ndim} dimensions ({shape}), but {name} needs {expected}. Encode "
            "pictures with this model's VAE."
        )
    if not all(samples.shape[1:]):
        raise ValueError(f"The latent of {first} is empty ({shape}): {name} needs {expected}.")


def origins_of(item: dict[str, Any], first: str) -> list[Origin]:
    """The origins of a LATENT's pictures: its lists `original_sizes` of (width, height), `crops` of (left, top).

    Raises:
        ValueError: not one for each picture, a size below 1, a crop below 0.
    """
    count = len(item["samples"])
    columns: list[list[tuple[int, int] | None]] = []
    for name, least in (("original_sizes", 1), ("crops", 0)):
        pairs = item.get(name)
        if pairs is None:
            columns.append([None] * count)
            continue
        if len(pairs) != count:
            raise ValueError(
                f"The latents from {first} on have {count} pictures, but {len(pairs)} {name.replace('_', ' ')}: give "
                "one for each picture."
            )
        columns.append([(int(one), int(other)) for one, other in pairs])
        if min(min(pair) for pair in columns[-1] if pair) < least:
            raise ValueError(f"The {name.replace('_', ' ')} of the latents from {first} on must be at least {least}.")
    return [Origin(size, crop) for size, crop in zip(*columns, strict=True)]


def as_network(model: Any, latent: Tensor) -> Tensor:
    """A latent [c, ...] as the network sees it, [1, c, ...]: scaled, and with a time axis where videos have one.

    Raises:
        ValueError: another model's number of channels.
    """
    layout = model.latent_format
    # Not always latent_channels: HunyuanImage's refiner puts pairs of channels together.
    channels = layout.process_out(torch.zeros(1, layout.latent_channels, *[1] * layout.latent_dimensions)).shape[1]
    if len(latent) != channels:
        raise ValueError(
            f"The latents have {len(latent)} channels, but {title_of(model)} needs {channels}: encode the pictures "
            "with this model's VAE."
        )
    batch = latent[None]
    if model.latent_format.latent_dimensions == 3 and batch.ndim == 4:
        batch = batch.unsqueeze(2)
    scaled: Tensor = model.process_latent_in(batch)
    return scaled
