"""Pictures as the papers' code sees them: 8-bit RGB, alpha on white. Sequences that make one picture at a time."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
        """The picture at this place. Raises ValueError for a file that is no whole picture."""
        try:
            with Image.open(self.paths[index], formats=_formats()) as opened:
                return as_rgb(ImageOps.exif_transpose(opened))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{self.paths[index]} cannot be read as a picture ({error}); replace or remove it."
            ) from error


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
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise FileNotFoundError(f"There are no pictures in {folder}: expected files {', '.join(SUFFIXES)}.")
    return paths


def as_rgb(picture: Image.Image) -> Image.Image:
    """Any picture as RGB; transparency is laid on white."""
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        canvas = Image.new("RGB", picture.size, (255, 255, 255))
        canvas.paste(picture, mask=picture.getchannel("A"))
        return canvas
    if picture.mode.startswith("I"):  # 16 bits: PIL's own conversion cuts at 255
        return Image.fromarray((np.asarray(picture, dtype=np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def digest(picture: Image.Image) -> str:
    """A digest of the size and content of an RGB picture: 16 hexadecimal digits."""
    content = hashlib.blake2b(f"{picture.width}x{picture.height}".encode(), digest_size=8)
    content.update(picture.tobytes())
    return content.hexdigest()


def is_flat(picture: Image.Image) -> bool:
    """Whether all pixels of an RGB picture have one colour."""
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]
