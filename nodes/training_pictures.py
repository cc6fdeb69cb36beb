"""Prepare Training Pictures."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io
from PIL import Image, ImageOps

from ..deft_ops.files.safe import write_files
from ..models.titles import title_of
from ..scoring.pictures import PICTURE_SUFFIXES, FilePictures, TensorPictures, digest
from ..trainers.data.pictures_folder import (
    CAPTIONS,
    CROPS,
    REPEATED,
    WITH_PLUGIN,
    fit,
    least_repeats,
    listing,
    own_caption,
    shortened,
    side_multiple,
    usual_size,
    with_trigger,
)
from .folders import folder_of, folders
from .output import as_image, png, show_text
from .training import first

if TYPE_CHECKING:
    from ..trainers.data.pictures_folder import Fit, Listing

_DEMO_SUBJECTS = Path(__file__).parent.parent / "demo" / "subjects"
THUMBNAIL = 160  # px
_COLUMNS = 4
_SHOWN = 48  # pictures at the node
LINE, LINES = 24, 4  # letters in a line of a caption below its picture, and how many lines it has at most


def readable_suffixes() -> tuple[str, ...]:
    """The suffixes of picture files that can be read here: HEIC and AVIF where Pillow or a plugin of it reads them."""
    for register in (_heif, _avif):
        try:
            register()
        except (ImportError, OSError):  # not installed, or without its library
            continue
    Image.init()
    registered = Image.registered_extensions()
    return (*PICTURE_SUFFIXES, *(suffix for suffix in WITH_PLUGIN if suffix in registered))


def _heif() -> None:
    from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

    register_heif_opener()


def _avif() -> None:
    import pillow_avif  # type: ignore[import-not-found, unused-ignore]  # noqa: F401  (it registers itself)


def training_folders() -> list[str]:
    """The folders that the widget offers: those with pictures, or folders with repeats that have some; the demo's last.

    The demo's are always there, so that the widget has a value even where no folder has been made.
    """
    names = set(folders((*PICTURE_SUFFIXES, *WITH_PLUGIN), _DEMO_SUBJECTS))
    for name in list(names):
        above, _, last = name.rpartition("/")
        if "/" in above and REPEATED.fullmatch(last):
            names.add(above)
    return sorted(names, key=lambda name: (name.startswith("demo/"), name))


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
        if len(result.thumbnails) < _SHOWN:
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


class DEFTPrepareTrainingPictures(io.ComfyNode):
    """The node that makes latents and captions of a folder of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a folder or pictures, VAE, CLIP; what Train Adapter learns from, and a report."""
        return io.Schema(
            node_id="DEFTPrepareTrainingPictures",
            display_name="Prepare Training Pictures",
            category="DEFT/training",
            description="Prepares a folder of pictures with captions for Train Adapter: rotates, "
            "resizes and encodes them for the base, and keeps the result, so that a "
            "second run does not encode them again. The report lists every skipped "
            "file.",
            search_aliases=[
                "dataset",
                "image folder",
                "captions",
                "caption files",
                "load folder",
                "training images",
                "training pictures",
                "lora training",
                "buckets",
                "图片文件夹",
                "图像文件夹",
                "数据集",
                "训练图片",
                "图片标注",
                "训练 lora",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=training_folders(),
                    tooltip="A folder in ComfyUI's input or output; demo/... comes with the pack."
                    " Captions are .txt or .caption files beside the pictures; a "
                    "subfolder named like 10_sks dog counts ten times. Press R to see new"
                    " folders.",
                ),
                io.Vae.Input("vae", tooltip="The base's VAE, to encode the pictures."),
                io.Clip.Input("clip", tooltip="The base's text encoder, to encode the captions."),
                io.String.Input(
                    "default_caption",
                    default="",
                    tooltip="For pictures without a caption, in folders without words in their name.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    tooltip="A rare word that will stand for your subject, such as sks. It "
                    "replaces [trigger] in a caption; a caption without it gets the word "
                    "in front.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="The area of the training pictures, as the side of a square. 0: the "
                    "size that the connected model is used at, 512 for SD 1.5, 1024 for "
                    "SDXL and newer bases. Smaller sizes need less memory.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default=CROPS[0],
                    tooltip="middle: crop to the nearest of the usual aspect ratios (buckets). "
                    "none: no cropping; each picture keeps its aspect ratio as closely as"
                    " the base allows.",
                ),
                io.Boolean.Input(
                    "flips",
                    default=False,
                    tooltip="Also use a mirrored copy of each picture. Not for faces, text, or "
                    "subjects with a left and a right side.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base, which determines the size and the multiples of the sides. "
                    "Without it 512 px and multiples of 64 px.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Pictures to use instead of the folder, which is then not read."
                ),
                io.String.Input(
                    "image_captions",
                    optional=True,
                    force_input=True,
                    tooltip="The captions of the connected images: one for all, or one for each.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latents", is_output_list=True, tooltip="The pictures, encoded: one LATENT each."
                ),
                io.Conditioning.Output(
                    display_name="positive", is_output_list=True, tooltip="The captions, encoded: one for each latent."
                ),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The captions as text, one for each latent: for the trainer's captions.",
                ),
                io.String.Output(display_name="report", tooltip="What is used, what is skipped and why."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: Any = None, **others: Any) -> list[tuple[str, int, int]]:
        """Run again when a file has come, gone or changed."""
        try:
            place = folder_of(first(folder) or "", _DEMO_SUBJECTS)
        except ValueError:  # execute raises what is wrong with the name
            return []
        read = (*PICTURE_SUFFIXES, *WITH_PLUGIN, *CAPTIONS)
        files = sorted(path for path in [*place.glob("*"), *place.glob("*/*")] if path.suffix.lower() in read)
        return [(path.relative_to(place).as_posix(), path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    @classmethod
    def execute(
        cls,
        folder: list[str],
        vae: list[Any],
        clip: list[Any],
        default_caption: list[str],
        trigger_word: list[str],
        size: list[int],
        crop: list[str],
        flips: list[bool],
        model: list[Any] | None = None,
        images: list[torch.Tensor] | None = None,
        image_captions: list[str] | None = None,
    ) -> io.NodeOutput:
        """Read and encode. Raises ValueError for no picture, a caption that is not UTF-8, a size below the multiple."""
        default, trigger, encoder = first(default_caption), first(trigger_word), first(vae)
        inner = first(model).model if model else None
        multiple = side_multiple(int(encoder.spacial_compression_encode()), inner)
        side = first(size) or usual_size(inner)
        lacking: list[str] = []
        notes: list[str] = []
        if images:
            sources = image_sources(images, image_captions)
            notes.append("the images are used, the folder is not read")
        else:
            place = listing(folder_of(first(folder), _DEMO_SUBJECTS), readable_suffixes())
            sources, lacking, notes = folder_sources(place), place.unreadable, list(place.notes)
            if image_captions:
                notes.append("image_captions are not used: they belong to connected images")

        def caption(source: PictureSource) -> str:
            return with_trigger(source.caption or source.words or default.strip(), trigger)

        result = prepare(sources, encoder, side, multiple, first(crop), first(flips), caption)
        used = [source for source in sources if source not in result.unread]
        what = "images" if images else "files"
        head = f"{len(used)} of {len(sources) + len(lacking)} {what}"
        broken = [
            f"{source.name} cannot be read as a picture {reason}".rstrip()
            for source, reason in zip(result.unread, result.reasons)
        ]
        if result.small:
            notes.append(f"{shortened(result.small)}: smaller than the training size, scaled up")
        lines = ["; ".join([head, *lacking, *broken, *caption_note(used, trigger, default), *notes])]
        sizes = ", ".join(f"{w} x {h} ({n})" for (w, h), n in sorted(result.sizes.items()))
        guess = "" if first(size) else f", for {side} px: {f'that of {title_of(inner)}' if inner else 'no model'}"
        lines.append(f"sizes: {sizes}{guess}")
        repeats = least_repeats(result.repeats)
        if len(set(repeats)) > 1:
            lines.append(f"repeats: {sum(repeats)} latents of {len(repeats)}, by the numbers of their folders")
        lines.append(f"{result.encoded} encoded, {result.kept} kept from earlier runs")
        lines += [f"{source.name}: {caption(source) or '(no caption)'}" for source in used[:_SHOWN]]
        report = "\n".join(lines)
        show_text(report)

        text_model = first(clip)
        conditionings = {
            text: text_model.encode_from_tokens_scheduled(text_model.tokenize(text))
            for text in dict.fromkeys(result.captions)
        }
        order = [index for index, count in enumerate(repeats) for _ in range(count)]
        captions = [result.captions[index] for index in order]
        return io.NodeOutput(
            [result.latents[index] for index in order],
            [conditionings[text] for text in captions],
            captions,
            report,
            ui={"text": [report]} | contact_sheet(result, 2 if first(flips) else 1),
        )


NODES: list[type[io.ComfyNode]] = [DEFTPrepareTrainingPictures]
