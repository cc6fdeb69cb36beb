"""Pictures as the papers' code sees them: 8-bit RGB, alpha on white. Sequences that make one picture at a time."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import torch

TIFF_STARTS = (b"II*\0", b"MM\0*")
UNKNOWN_TIFF = "Pillow does not know this kind of TIFF, as of 32-bit colours or 16-bit floats; save it as an 8-bit PNG"
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
BRIGHT = 10  # floats whose highest is above 1 and below this are not known to go to 255
SIGNED = 2  # a sample format
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Pictures(Sequence[Image.Image]):
    """RGB pictures, each made anew when it is asked for."""

    @abstractmethod
    def make(self, index: int) -> Image.Image:
        """The picture of that place."""

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        """One picture, or a list of them."""
        if isinstance(index, slice):
            return [self.make(i) for i in range(*index.indices(len(self)))]
        return self.make(index)


class TensorPictures(Pictures):
    """IMAGE batches [B, H, W, C] in 0..1 as RGB pictures; each is made when it is asked for.

    8 bits as ComfyUI's Save Image writes them (truncated). C is 1 (grey), 3, or 4: alpha is laid on white, as
    DreamBench++ does. `what` names the input in errors.

    Raises:
        ValueError: an empty batch, another shape, or values that are not finite.
    """

    def __init__(self, batches: Sequence[torch.Tensor], what: str = "images") -> None:
        """Check the batches; nothing is converted yet. sizes: how many pictures each batch has."""
        import torch  # picture files need no tensors

        self.sizes = [len(batch) for batch in batches]
        self._places = [(batch, index) for batch in batches for index in range(_checked(batch, what))]
        bad = [str(i) for i, (batch, index) in enumerate(self._places) if not torch.isfinite(batch[index]).all()]
        if bad:
            raise ValueError(
                f"{what}: picture {', '.join(bad)} holds NaN or infinite values; check the node that made it."
            )

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._places)

    def make(self, index: int) -> Image.Image:
        """The picture at this place."""
        batch, place = self._places[index]
        row = np.clip(255.0 * batch[place].detach().cpu().float().numpy(), 0, 255).astype(np.uint8)
        return as_rgb(Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row))


def _checked(batch: torch.Tensor, what: str) -> int:
    """The number of pictures in a batch."""
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{what}: expected pictures [count, height, width, 1, 3 or 4], got {list(batch.shape)}.")
    if batch.numel() == 0:
        raise ValueError(f"{what}: the batch is empty; connect at least one picture.")
    return len(batch)


def to_pictures(images: torch.Tensor, what: str = "images") -> list[Image.Image]:
    """All pictures of one IMAGE batch; see `TensorPictures`."""
    return TensorPictures([images], what)[:]


class FilePictures(Pictures):
    """Picture files as RGB pictures, turned as their EXIF data says; each is read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """`paths` are opened later."""
        self.paths = list(paths)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.paths)

    def make(self, index: int) -> Image.Image:
        """The picture at this place; of an animated one the first. Raises ValueError for one that is not read whole.

        That is a file that is no whole picture, and one whose kind of numbers does not say which is white.
        """
        path = self.paths[index]
        try:
            with Image.open(path, formats=_formats()) as opened:
                return as_rgb(ImageOps.exif_transpose(opened), getattr(opened, "tag_v2", {}))
        except Image.DecompressionBombError as error:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # above the limit itself it warns only
            raise ValueError(
                f"{path} has more pixels than the {most:,} that Pillow reads: make it smaller, or remove it."
            ) from error
        except UnidentifiedImageError as error:
            tiff = path.suffix.lower() in (".tif", ".tiff") and _start(path) in TIFF_STARTS
            why = UNKNOWN_TIFF if tiff else error
            raise ValueError(f"{path} cannot be read as a picture ({why}); replace or remove it.") from error
        except Exception as error:  # each of Pillow's decoders raises its own kinds: struct.error, KeyError, ...
            reason = " ".join(f"{error or type(error).__name__}".split())[:300]
            raise ValueError(f"{path} cannot be read as a picture ({reason}); replace or remove it.") from error


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


class ChosenPictures(Pictures):
    """Some pictures of a sequence."""

    def __init__(self, pictures: Sequence[Image.Image], places: Sequence[int]) -> None:
        """`pictures` are asked for one at a time."""
        self.pictures, self.places = pictures, places

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.places)

    def make(self, index: int) -> Image.Image:
        """The picture at this place."""
        return self.pictures[self.places[index]]


def _formats() -> list[str]:
    """The formats that Pillow reads by itself: for PostScript it runs another program, whatever a file's name says.

    Other packages may add some later.
    """
    Image.init()
    return [name for name in Image.ID if name not in ("EPS", "PS", "PDF")]


def picture_files(folder: Path) -> list[Path]:
    """The picture files below a folder, sorted by path. Raises FileNotFoundError for none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not paths:
        raise FileNotFoundError(f"There are no pictures in {folder}: expected files {', '.join(PICTURE_SUFFIXES)}.")
    return paths


def as_rgb(picture: Image.Image, tags: Mapping[int, Any] = MappingProxyType({})) -> Image.Image:
    """Any picture as RGB; transparency is laid on white. tags: of a TIFF file.

    Numbers of more than 8 bits are scaled by what their kind says is white: 16 bits by 65535, floats from 0 to 1 by 1.
    Raises ValueError for numbers of which nobody knows it.
    """
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return _scaled(picture, tags).convert("RGB")
    if SIGNED in _several(tags.get(SAMPLE_FORMAT)):
        raise ValueError("its numbers have a sign; save it as an 8-bit PNG")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        canvas = Image.new("RGB", picture.size, (255, 255, 255))
        canvas.paste(picture, mask=picture.getchannel("A"))
        return canvas
    return picture.convert("RGB")


def _several(value: Any) -> tuple[Any, ...]:
    """The value of a TIFF tag, which has one for each sample or one for all."""
    return value if isinstance(value, tuple) else (value,)


def _scaled(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """A grey picture of whole numbers above 8 bits or of floats, as 8 bits. Pillow's own conversion cuts at 255."""
    numbers = np.asarray(picture)
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    between = f"its numbers go from {low:g} to {high:g}"
    if picture.mode == "F":
        if not np.isfinite(numbers).all():
            raise ValueError("it holds NaN or infinite numbers")
        if low < 0 or 1 < high < BRIGHT or high > 255:
            raise ValueError(f"{between}; floats are read from 0 to 1 or from 0 to 255: save it so, or as an 8-bit PNG")
        grey = np.rint(numbers * 255) if high <= 1 else numbers
    else:
        # Pillow has 16 bits as I;16, older versions as I; in a TIFF that is 32 bits, or 16 with a sign.
        unclear = picture.mode == "I" and BITS in tags and 0 < high <= 255
        if low < 0 or high > 65535 or unclear:
            raise ValueError(
                f"{between}, of 32 bits or with a sign: what is white is not known; save it as an 8- or 16-bit PNG"
            )
        bits = 12 if 12 in _several(tags.get(BITS)) else 16
        grey = numbers.astype(np.uint32) >> (bits - 8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow only heeds at 8 bits
        grey = 255 - grey
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(numbers == transparent, 255, grey)
    return Image.fromarray(grey.astype(np.uint8))


class CutOut(Pictures):
    """Pictures whose background is white: of each what its mask leaves, as a transparent picture is read.

    masks: batches [B, H, W] or one mask [H, W], 1 where the subject is; one mask for each picture, or one for all.
    `what` names the input in errors.

    Raises:
        ValueError: another number of masks, masks of another size than their pictures, without a subject, or with
            values that are none of a mask's.
    """

    def __init__(self, pictures: Sequence[Image.Image], masks: Sequence[torch.Tensor], what: str = "masks") -> None:
        """Check the masks; pictures are looked at when they are asked for."""
        import torch

        self._pictures, self._what = pictures, what
        self._masks = [mask for batch in masks for mask in (batch[None] if batch.ndim == 2 else batch)]
        if any(mask.ndim != 2 for mask in self._masks):
            raise ValueError(f"{what}: expected masks [count, height, width], got {list(masks[0].shape)}.")
        if len(self._masks) not in (1, len(pictures)):
            raise ValueError(
                f"{what}: there are {len(self._masks)} masks for {len(pictures)} pictures; connect one for each "
                "picture, or one for all."
            )
        for place, mask in enumerate(self._masks):
            if not torch.isfinite(mask).all() or (mask < 0).any() or (mask > 1).any():
                raise ValueError(f"{what}: mask {place} has values beyond 0 to 1; connect a MASK.")
            if not (mask >= 0.5).any():
                raise ValueError(
                    f"{what}: mask {place} is empty, there is no subject in it; draw the subject white, or disconnect "
                    "the masks."
                )

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._pictures)

    def make(self, index: int) -> Image.Image:
        """The picture at this place on white. Raises ValueError for a mask of another size."""
        picture, place = self._pictures[index], index if len(self._masks) > 1 else 0
        mask = self._masks[place]
        if tuple(mask.shape) != (picture.height, picture.width):
            raise ValueError(
                f"{self._what}: mask {place} is {mask.shape[1]} x {mask.shape[0]}, picture {index} is {picture.width} "
                f"x {picture.height}; make the mask of the picture's size."
            )
        alpha = Image.fromarray((mask.detach().cpu().float().numpy() * 255).round().astype(np.uint8))
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=alpha)
        return white


def digest(picture: Image.Image) -> str:
    """A digest of the size and content of an RGB picture: 16 hexadecimal digits."""
    content = hashlib.blake2b(f"{picture.width}x{picture.height}".encode(), digest_size=8)
    content.update(picture.tobytes())
    return content.hexdigest()


def is_flat(picture: Image.Image) -> bool:
    """Whether all pixels of an RGB picture have one colour."""
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]
