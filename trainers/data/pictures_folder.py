"""A folder of training pictures: its files, captions, repeats and sizes. Nothing here opens a picture or a model.

Captions lie beside the pictures, as kohya's trainers and others have them: `dog.txt` or `dog.caption` for `dog.jpg`.
A folder named `10_sks dog` in it holds pictures to be seen ten times as often, whose class words are "sks dog".
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from PIL import Image

from ...models.titles import class_of
from ..settings.recipes import recipe_of

CAPTIONS = (".txt", ".caption")  # the first that is there
# Picture files that Pillow reads with a plugin, or as a newer one.
WITH_PLUGIN = {
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".avif": "Pillow 11.3 or newer, or pillow-avif-plugin",
}
REPEATED = re.compile(r"(\d+)_(.+)")
PIXELS = 64  # the multiple of sides without a MODEL: that of kohya's trainers, which suits every base
_LONGEST = 2  # a bucket's side is at most this many times the size
# The side of a square of the area that a base without a recipe is used at, by the beginning of its class' name.
TRAINING_SIDES = {"SD15": 512, "WAN": 640, "HunyuanVideo": 640, "LTX": 768, "HunyuanImage21": 2048}
SIDE, SIDE_OF_SD20 = 1024, 512  # of all others; of SD 2.0, which predicts the noise and has SD 2.1's class
WITHOUT_MODEL = 512
CROPS = ("middle", "none")
TRIGGER = "[trigger]"
_MOST_NAMES = 5  # in one note


@dataclass(frozen=True)
class TrainingFile:
    """A picture file. repeats: how many times as often as others it is seen. words: the class words of its folder."""

    path: Path
    repeats: int = 1
    words: str = ""


@dataclass
class Listing:
    """What lies in a folder: pictures in order; "name needs package" of unreadable ones; notes on what is not used."""

    files: list[TrainingFile] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def listing(folder: Path, suffixes: Collection[str]) -> Listing:
    """The picture files of a folder and of its folders with repeats, by name. suffixes: of pictures that can be read.

    Raises:
        ValueError: an empty folder, or one without a picture that can be read.
    """
    result = Listing()
    own = REPEATED.fullmatch(folder.name)
    _add(result, folder, 1, own[2].strip() if own else "", suffixes)
    empty = not any(folder.iterdir())
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        name = REPEATED.fullmatch(below.name)
        if name is None:
            result.notes.append(f"folder {below.name} is not read: name it 1_{below.name} to read it")
        elif int(name[1]) == 0:
            result.notes.append(f"folder {below.name} is not read: its repeats are 0")
        else:
            _add(result, below, int(name[1]), name[2].strip(), suffixes)
    if not result.files:
        why = "is empty" if empty else "holds no picture that can be read"
        more = f" ({'; '.join([*result.unreadable, *result.notes])})" if result.unreadable or result.notes else ""
        raise ValueError(f"The folder {folder.name!r} {why}{more}: put pictures there ({', '.join(sorted(suffixes))}).")
    return result


def _add(result: Listing, folder: Path, repeats: int, words: str, suffixes: Collection[str]) -> None:
    """Add the files that lie in one folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    stems = set()
    for path in files:
        suffix = path.suffix.lower()
        if suffix in suffixes:
            result.files.append(TrainingFile(path, repeats, words))
        elif suffix in WITH_PLUGIN:
            result.unreadable.append(f"{path.name} needs {WITH_PLUGIN[suffix]}")
        else:
            continue
        if path.stem in stems:
            result.notes.append(f"two pictures are named {path.stem} and share their caption")
        stems.add(path.stem)
    alone = [path.name for path in files if path.suffix.lower() in CAPTIONS and path.stem not in stems]
    if alone:
        result.notes.append(f"{shortened(alone)}: no picture of that name")


def shortened(names: Sequence[str]) -> str:
    """Names with commas; of many the first, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def own_caption(picture: Path) -> str:
    """The caption in the file beside a picture; empty for no file, or an empty one.

    Raises:
        ValueError: a file that is not UTF-8.
    """
    for suffix in (*CAPTIONS, *map(str.upper, CAPTIONS)):
        path = picture.with_suffix(suffix)
        if not path.is_file():
            continue
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(path, error.start)) from error
        if "\0" in text:  # UTF-16 without a mark
            raise ValueError(_not_utf8(path, data.index(0)))
        if text:
            return text
    return ""


def _not_utf8(path: Path, place: int) -> str:
    return f"The caption {path.name} is not UTF-8 (byte {place}): save it again with the encoding UTF-8."


def with_trigger(caption: str, trigger: str) -> str:
    """A caption with the trigger word: where it says [trigger], else before it, unless it is in it as a word."""
    trigger = trigger.strip()
    if TRIGGER in caption:
        return re.sub(" {2,}", " ", caption.replace(TRIGGER, trigger)).strip()
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.ASCII):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def least_repeats(repeats: Sequence[int]) -> list[int]:
    """Repeats in their least whole numbers: 20 and 10 show the same shares as 2 and 1, with fewer copies."""
    common = reduce(math.gcd, repeats)
    return [count // common for count in repeats]


def buckets(size: int, multiple: int) -> list[tuple[int, int]]:
    """Widths and heights, multiples of `multiple` px, of at most size * size px and as near to that as they go.

    Raises:
        ValueError: a size below the multiple.
    """
    if size < multiple:
        raise ValueError(f"size {size} is too small: the sides of this base's pictures are multiples of {multiple} px.")
    sizes = set()
    for first in range(multiple, _LONGEST * size + 1, multiple):
        other = size * size // first // multiple * multiple
        if multiple <= other <= _LONGEST * size:
            sizes |= {(first, other), (other, first)}
    return sorted(sizes)


@dataclass(frozen=True)
class Fit:
    """How a picture becomes a training picture: scaled to `scaled`, and cut to `size` from `corner` (left, top) on."""

    scaled: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The training picture of an RGB picture."""
        if picture.size != self.scaled:
            picture = picture.resize(self.scaled, Image.Resampling.LANCZOS)
        left, top = self.corner
        return picture.crop((left, top, left + self.size[0], top + self.size[1]))


def fit(width: int, height: int, size: int, multiple: int, crop: str) -> Fit:
    """The fit of a picture of that width and height into an area of size * size px.

    crop "middle": into the bucket of the nearest shape, what stands over is cut off on both sides. "none": nothing is
    cut off; each side is scaled to the nearest multiple, so that the shape changes by half a multiple at most, and the
    area may be a little larger.

    Raises:
        ValueError: a size below the multiple, another crop.
    """
    shapes = buckets(size, multiple)
    if crop not in CROPS:
        raise ValueError(f"crop must be one of {', '.join(CROPS)}, not {crop!r}.")
    if crop == "none":
        scale = size / math.sqrt(width * height)
        whole = tuple(max(1, round(side * scale / multiple)) * multiple for side in (width, height))
        return Fit((whole[0], whole[1]), (0, 0), (whole[0], whole[1]))
    shape = math.log(width / height)
    bucket = min(shapes, key=lambda pair: (abs(math.log(pair[0] / pair[1]) - shape), -pair[0] * pair[1]))
    scale = max(bucket[0] / width, bucket[1] / height)
    scaled = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
    return Fit(scaled, ((scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2), bucket)


def usual_size(model: Any = None) -> int:
    """The side of a square, in px, of the area that a BaseModel is trained at: its recipe's; 512 without a model."""
    if model is None:
        return WITHOUT_MODEL
    name, recipe = class_of(model), recipe_of(model)
    if name == "SD20" and getattr(model.model_type, "name", "") != "V_PREDICTION":
        return SIDE_OF_SD20
    if recipe is not None:
        return recipe.sides[0]
    return next((side for start, side in TRAINING_SIDES.items() if name.startswith(start)), SIDE)


def side_multiple(pixels: int, model: Any = None) -> int:
    """What the sides of training pictures are multiples of, in px. pixels: a side of one value of the VAE's latents.

    With a BaseModel: its patches, or, of a U-Net, so many latents as its deepest level makes one of. Without: 64 px.
    """
    if model is None:
        return math.lcm(pixels, PIXELS)
    patch = getattr(model.diffusion_model, "patch_size", None)
    if isinstance(patch, Sequence):
        patch = patch[-1] if patch else None
    levels = model.model_config.unet_config.get("channel_mult")
    if not isinstance(patch, int):
        patch = 2 ** (len(levels) - 1) if levels else 1
    return pixels * patch
