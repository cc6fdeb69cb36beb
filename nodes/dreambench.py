"""Subjects of DreamBench++."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import folder_paths
import numpy as np
from comfy_api.v0_0_2 import io

from ..deft_ops.files import safe
from ..scoring.dreambench import is_captions, parsed, picture_of
from ..scoring.pictures import FilePictures
from .output import as_image, text_ui

_NO_CAPTIONS = "no captions in input"  # shown where the list is empty


def caption_files() -> list[str]:
    """All texts of subjects below ComfyUI's input folder, as paths in it."""
    root = Path(folder_paths.get_input_directory())
    paths = (Path(place, name).relative_to(root) for place, _, names in os.walk(root) for name in names)
    return sorted(path.as_posix() for path in paths if is_captions(path))


def caption_file(name: str) -> Path:
    """The file of a widget's value, which may come from an API call and be anything.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a place outside the input folder, or no text of a subject.
    """
    if name == _NO_CAPTIONS:
        raise ValueError("ComfyUI's input has no subjects of DreamBench++: put its folder data there and press R.")
    root = Path(folder_paths.get_input_directory())
    path = root / str(name)
    inside = "\0" not in str(name) and path.resolve().is_relative_to(root.resolve())
    if not inside or not is_captions(PurePosixPath(str(name))):
        raise ValueError(
            f"{name!r} is no .txt file below a folder captions in ComfyUI's input: choose one of the list."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {name!r} in ComfyUI's input: put it there and press R.")
    return path


class DEFTLoadDreamBench(io.ComfyNode):
    """The node that reads a subject of DreamBench++."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a text file of the data set; its picture, prompts and names."""
        return io.Schema(
            node_id="DEFTLoadDreamBench",
            display_name="Load DreamBench++ Subject",
            category="DEFT",
            description="Reads a subject of DreamBench++'s data set: its picture, its class word and its nine prompts, "
            "which Prompts then makes a list of. Put the folder data of the data set into ComfyUI's "
            "input, under any name.",
            search_aliases=["dreambench", "dreambench++", "dreambench plus", "benchmark prompts", "基准提示词"],
            inputs=[
                io.Combo.Input(
                    "captions",
                    options=caption_files() or [_NO_CAPTIONS],
                    tooltip="A .txt file below a folder captions; its picture is below the folder images beside that. "
                    "Press R for new ones.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The subject's picture, to train on and as the reference of scores."),
                io.String.Output("prompts", tooltip="The prompts, one a line, for Prompts."),
                io.String.Output("subject", tooltip="The class word, such as kitten."),
                io.String.Output(
                    "name", tooltip="The subject's name in DreamBench++'s results: live_subject_animal_00_kitten."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, captions: str) -> list[tuple[int, int]]:
        """Run again when the text or the picture has changed."""
        try:
            path = caption_file(captions)
            stats = [file.stat() for file in (path, picture_of(path))]
        except (ValueError, OSError):  # execute raises what is wrong with the name
            return []
        return [(stat.st_mtime_ns, stat.st_size) for stat in stats]

    @classmethod
    def execute(cls, captions: str) -> io.NodeOutput:
        """Read both files. Raises what `caption_file`, `parsed` and `picture_of` do, and for a damaged picture."""
        path = caption_file(captions)
        subject = parsed(safe.read_text(path), PurePosixPath(captions))
        (picture,) = FilePictures([picture_of(path)])
        return io.NodeOutput(
            as_image(np.array(picture)),
            "\n".join(subject.prompts),
            subject.word,
            subject.name,
            ui=text_ui(subject.report),
        )


NODES: list[type[io.ComfyNode]] = [DEFTLoadDreamBench]
