"""Pictures read, fitted and encoded for training, and what is shown of them."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps

from ..deft_ops.files.safe import write_files
from ..scoring.pictures import FilePictures, TensorPictures, digest
from ..trainers.data.pictures_folder import Fit, Listing, fit, own_caption, shortened
from .output import as_image, png

THUMBNAIL = 160  # px
_COLUMNS = 4
SHEET_PICTURES = 48  # pictures at the node
LINE, LINES = 24, 4  # letters in a line of a caption below its picture, and how many lines it has at most


def kept_folder() -> Path:
    """The folder of what was encoded."""
    return Path(folder_paths.get_user_directory()) / "deft_nodes" / "latents"


@dataclass(eq=False)
class PictureSource:
    """A picture to read, and what its caption is if it has none of its own."""

    name: str
    read: Callable[[], Image.Image]
    caption: str
    words: str = ""
    repeats: int = 1


@dataclass
class PreparedPictures:
    """What has come of the pictures: a latent, a caption and repeats each (two with flips); thumbnails of the first.

    sizes: the number of pictures of each width and height. small: names of those that were scaled up. unread: of those
    that are no whole pictures, and reasons why.
    """

    latents: list[dict[str, Any]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    thumbnails: list[Image.Image] = field(default_factory=list)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    encoded: int = 0
    kept: int = 0
    small: list[str] = field(default_factory=list)
    unread: list[PictureSource] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def folder_sources(folder: Listing) -> list[PictureSource]:
    """The pictures of a folder. Raises ValueError for a caption that is not UTF-8."""

    def reader(path: Path) -> Callable[[], Image.Image]:
        return lambda: FilePictures([path])[0]

    return [
        PictureSource(file.path.name, reader(file.path), own_caption(file.path), file.words, file.repeats)
        for file in folder.files
    ]


def image_sources(images: Sequence[torch.Tensor], captions: Sequence[str] | None) -> list[PictureSource]:
    """Connected pictures. Raises ValueError for captions that are neither one nor one for each."""
    pictures = TensorPictures(images)
    texts = list(captions or [""])
    if len(texts) not in (1, len(pictures)):
        raise ValueError(
            f"There are {len(texts)} image_captions for {len(pictures)} images: give one for all, or one for each."
        )

    def reader(index: int) -> Callable[[], Image.Image]:
        return lambda: pictures[index]

    return [
        PictureSource(f"image {index + 1}", reader(index), texts[index % len(texts)].strip())
        for index in range(len(pictures))
    ]


def encoded(picture: Image.Image, prepared: Fit, flipped: bool, vae: Any, vae_key: str) -> tuple[torch.Tensor, bool]:
    """The latent of a picture, and whether it was kept from an earlier run."""
    from ..trainers.data.kept_latents import keep_latent, kept_latent, key_of

    key = key_of(digest(picture), prepared, flipped, vae_key)
    latent = kept_latent(kept_folder(), key)
    if latent is not None:
        return latent, True
    pixels = prepared(picture)
    if flipped:
        pixels = ImageOps.mirror(pixels)
    latent = vae.encode(as_image(np.array(pixels)))
    if not torch.isfinite(latent).all():
        raise ValueError("The VAE returns NaN or infinite values: start ComfyUI with --fp32-vae, or use another VAE.")
    keep_latent(kept_folder(), key, latent)
    return latent, False


def prepare(
    sources: Sequence[PictureSource],
    vae: Any,
    size: int,
    multiple: int,
    crop: str,
    flips: bool,
    caption: Callable[[PictureSource], str],
) -> PreparedPictures:
    """Read, fit and encode all pictures. Raises ValueError if none can be read."""
    from ..trainers.data.kept_latents import vae_hash

    vae_key = f"{vae_hash(vae.get_sd())} {vae.vae_dtype}"
    result, bar = PreparedPictures(), comfy.utils.ProgressBar(len(sources))
    last = None
    for place, source in enumerate(sources, 1):
        try:
            picture = source.read()
        except ValueError as error:
            result.unread.append(source)
            result.reasons.append(str(error).partition(" cannot be read as a picture ")[2].partition("; replace")[0])
            last = error
            continue
        how = fit(*picture.size, size, multiple, crop)
        if how.scaled[0] > picture.width or how.scaled[1] > picture.height:
            result.small.append(source.name)
        for flipped in (False, True) if flips else (False,):
            latent, kept = encoded(picture, how, flipped, vae, vae_key)
            result.kept += kept
            result.encoded += not kept
            result.latents.append({"samples": latent, "original_sizes": [picture.size], "crops": [how.corner]})
            result.captions.append(caption(source))
            result.repeats.append(source.repeats)
        result.sizes[how.size] = result.sizes.get(how.size, 0) + 1
        if len(result.thumbnails) < SHEET_PICTURES:
            result.thumbnails.append(ImageOps.pad(how(picture), (THUMBNAIL, THUMBNAIL), color="white"))
        bar.update_absolute(place)
    if not result.latents:
        raise ValueError(f"None of the pictures can be read: replace them. {last}") from last
    return result


def contact_sheet(result: PreparedPictures, each: int) -> dict[str, list[dict[str, str]]]:
    """The thumbnails with their captions as a picture of ComfyUI's temporary folder, for the node to show.

    each: captions a picture.
    """
    from ..reports.grid import comparison_grid

    captions = result.captions[::each][: len(result.thumbnails)]
    texts = ["  ".join(textwrap.wrap(text, LINE, max_lines=LINES, placeholder="...")) for text in captions]
    thumbnails, columns = list(result.thumbnails), min(_COLUMNS, len(texts))
    thumbnails += [Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")] * (-len(texts) % columns)
    starts = range(0, len(texts), columns)
    sheet = png(
        comparison_grid(
            [thumbnails[start : start + columns] for start in starts],
            cell_notes=[texts[start : start + columns] for start in starts],
        )
    )
    folder = Path(folder_paths.get_temp_directory())
    name = f"deft_training_pictures_{hashlib.blake2b(sheet, digest_size=8).hexdigest()}.png"
    write_files(folder, {name: sheet})
    return {"images": [{"filename": name, "subfolder": "", "type": "temp"}]}


def caption_note(sources: Sequence[PictureSource], trigger: str, default: str) -> list[str]:
    """What is used for pictures without a caption."""
    notes = []
    for words in (True, False):
        names = [source.name for source in sources if not source.caption and bool(source.words) == words]
        if not names:
            continue
        text = shortened(names) if len(names) < len(sources) or len(sources) == 1 else "no picture"
        if words:
            use = "the folder's words are used"
        elif default.strip():
            use = "the default is used"
        else:
            use = "the trigger word is used" if trigger.strip() else "an empty one is used"
        verb = "have" if len(names) > 1 and text != "no picture" else "has"
        notes.append(f"{text} {verb} {'a' if text == 'no picture' else 'no'} caption, {use}")
    return notes
