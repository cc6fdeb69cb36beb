"""Prepare Training Pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.v0_0_2 import io
from PIL import Image

from ..models.titles import title_of
from ..scoring.pictures import PICTURE_SUFFIXES
from ..trainers.data.pictures_folder import (
    CAPTIONS,
    CROPS,
    REPEATED,
    WITH_PLUGIN,
    least_repeats,
    listing,
    shortened,
    side_multiple,
    usual_size,
    with_trigger,
)
from .folders import folder_of, folders
from .output import show_text
from .picture_preparation import (
    SHEET_PICTURES,
    PictureSource,
    caption_note,
    contact_sheet,
    folder_sources,
    image_sources,
    prepare,
)
from .training import first

_DEMO_SUBJECTS = Path(__file__).parent.parent / "demo" / "subjects"


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


_DEMO_SUBJECTS = Path(__file__).parent.parent / "demo" / "subjects"


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
        lines += [f"{source.name}: {caption(source) or '(no caption)'}" for source in used[:SHEET_PICTURES]]
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
