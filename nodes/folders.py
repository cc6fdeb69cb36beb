"""Pictures of a folder, with their captions."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.v0_0_2 import io

from ..deft_ops.files import safe
from ..scoring.pictures import PICTURE_SUFFIXES, FilePictures
from .adapters import CATEGORY
from .output import as_image

_DEMO_PICTURES = Path(__file__).parent.parent / "demo" / "pictures"


def roots(demo: Path = _DEMO_PICTURES) -> dict[str, Path]:
    """The places in which folders are looked for, by the word that their names begin with; demo: the pack's own."""
    return {
        "input": Path(folder_paths.get_input_directory()),
        "output": Path(folder_paths.get_output_directory()),
        "demo": demo,
    }


def pictures_in(folder: Path) -> list[Path]:
    """The picture files that lie in a folder itself, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())


def folders(suffixes: tuple[str, ...] = PICTURE_SUFFIXES, demo: Path = _DEMO_PICTURES) -> list[str]:
    """All folders below the roots that hold pictures, or files of those suffixes, as root/relative path."""
    places = []
    for word, root in roots(demo).items():
        for place, _, names in os.walk(root):
            if any(name.lower().endswith(suffixes) for name in names) and Path(place) != root:
                places.append(f"{word}/{Path(place).relative_to(root).as_posix()}")
    return sorted(places)


def folder_of(name: str, demo: Path = _DEMO_PICTURES) -> Path:
    """The folder of a widget's value, which may come from an API call and be anything.

    Raises:
        ValueError: no such folder, or one outside the roots.
    """
    word, _, below = str(name).partition("/")
    root = roots(demo).get(word)
    if root is None or not below or not (root / below).resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{name!r} is not a folder in ComfyUI's input or output folder: choose one from the list.")
    if not (root / below).is_dir():
        raise ValueError(f"There is no folder {name!r}: put it there and press R to refresh the list.")
    return root / below


class DEFTLoadFolder(io.ComfyNode):
    """The node that reads all pictures of a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: a folder; lists of its pictures, captions and file names."""
        return io.Schema(
            node_id="DEFTLoadFolder",
            display_name="Load Pictures of a Folder",
            category=CATEGORY,
            description="Reads all pictures and captions of a folder in ComfyUI's input or "
            "output, in the order of their names, to score pictures that were made "
            "before or elsewhere.",
            search_aliases=[
                "image folder",
                "load folder",
                "load images",
                "captions",
                "caption files",
                "dataset",
                "directory",
                "batch load",
                "score a folder",
                "图片文件夹",
                "图像文件夹",
                "数据集",
                "图片标注",
                "批量加载图片",
            ],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=folders(),
                    tooltip="input/... and output/... are ComfyUI's folders, demo/... comes with the pack. Press R for "
                    "new ones.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True, tooltip="The pictures, in any sizes."),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The text of the .txt file beside each picture; empty if there is none.",
                ),
                io.String.Output(display_name="names", is_output_list=True, tooltip="The file names without suffix."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str) -> list[tuple[str, int, int]]:
        """Run again when a file has come, gone or changed."""
        try:
            files = sorted(folder_of(folder).iterdir())
        except ValueError:  # execute raises what is wrong with the name
            return []
        return [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        """Read the files. Raises ValueError for no folder, an empty one, or a file that is no whole picture."""
        files = pictures_in(folder_of(folder))
        if not files:
            raise ValueError(f"There is no picture in {folder!r}: put some there ({', '.join(PICTURE_SUFFIXES)}).")
        texts = [file.with_suffix(".txt") for file in files]
        captions = [safe.read_text(text).strip() if text.is_file() else "" for text in texts]
        pictures = FilePictures(files)
        # By place: an iterator would keep Pillow's copy of a picture while its floats are made.
        images = [as_image(np.array(pictures[place])) for place in range(len(files))]
        return io.NodeOutput(images, captions, [file.stem for file in files])


NODES: list[type[io.ComfyNode]] = [DEFTLoadFolder]
