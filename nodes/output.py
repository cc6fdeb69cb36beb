"""The parts that output nodes share: pictures as IMAGE, files in the output folder, inputs that come as lists."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.v0_0_2 import io
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from server import PromptServer

from ..deft_ops.files import lock
from ..deft_ops.files.safe import write_files
from ..disk.errors import named
from .sockets import ScoresSocket

_PATIENCE = 60.0  # seconds that a node waits for another server that writes files of the same name
MAX_ROWS = 100  # as many as a growing input may have


def node_in_page(node_id: str) -> str:
    """The node of the page's graph at which a node is shown that runs. A loop runs a copy of its body's nodes in each
    pass, whose ids the page does not know."""
    return str(get_progress_state().dynprompt.get_display_node_id(node_id))


def show_text(text: str) -> None:
    """Show a text at the node that runs, in the page."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context and server:
        server.send_progress_text(text, node_in_page(context.node_id))


def text_ui(*texts: str) -> dict[str, list[str]]:
    """A node's UI output `text`, for programs; the front end does not show it, so `show_text` does."""
    show_text("\n".join(texts))
    return {"text": list(texts)}


def warned(text: str) -> dict[str, list[str]]:
    """A warning at the node and in its UI output; nothing for an empty one."""
    return text_ui(text) if text else {}


def as_image(picture: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> IMAGE [1, H, W, 3]."""
    return torch.from_numpy(picture).float().div_(255)[None]


def png(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> PNG file."""
    target = BytesIO()
    Image.fromarray(picture).save(target, "PNG", optimize=True)
    return target.getvalue()


def save_place(prefix: str, root: str) -> tuple[Path, str, int]:
    """The folder, the beginning of the name and the next number of files of a prefix; the folder is made.

    Raises ComfyUI's own error for a prefix that leads out of the root, NotWritten (an OSError) for a folder that the
    system refuses, ValueError for a zero character.
    """
    with named(Path(root) / prefix):
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    return Path(folder), name, counter


def save_files(prefix: str, files: dict[str, bytes]) -> list[Path]:
    """Write files by suffix into the output folder as prefix_00001_.suffix; the counter goes on from what is there.

    Two servers with one output folder do not take the same number. Raises ComfyUI's own error for a prefix that leads
    out of the output folder.
    """
    output = folder_paths.get_output_directory()
    folder, name, _ = save_place(prefix, output)
    with ExitStack() as stack:
        with suppress(OSError):  # of a folder or a name that cannot be written to: writing says so
            stack.enter_context(lock.holding(folder / f".{name}.lock", _PATIENCE))
        _, _, counter = save_place(prefix, output)
        contents = {f"{name}_{counter:05}_.{suffix}": data for suffix, data in files.items()}
        write_files(folder, contents)
    return [folder / file for file in contents]


def listed(paths: Iterable[Path]) -> dict[str, list[dict[str, str]]]:
    """Files of the output folder as a node's UI output names them, for programs that read it; no key without files."""
    root = Path(folder_paths.get_output_directory())
    files = []
    for path in paths:
        part = path.relative_to(root if path.is_relative_to(root) else root.resolve())
        subfolder = "" if part.parent == Path() else part.parent.as_posix()
        files.append({"filename": part.name, "subfolder": subfolder, "type": "output"})
    return {"files": files} if files else {}


def workflow_info(node: type[io.ComfyNode]) -> PngInfo | None:
    """The metadata that ComfyUI's Save Image writes into a PNG: prompt and workflow. None under --disable-metadata."""
    if args.disable_metadata:
        return None
    info = PngInfo()
    for name, value in {"prompt": node.hidden.prompt, **(node.hidden.extra_pnginfo or {})}.items():
        if value is not None:
            info.add_text(name, json.dumps(value))
    return info


def file_name(label: str) -> str:
    """A label as part of a file's name: letters, digits, dots and hyphens, 40 characters at most."""
    return re.sub(r"[^\w.-]+", "_", label).strip("._")[:40]


def save_pngs(prefix: str, pictures: Iterable[tuple[str, Image.Image]], info: PngInfo | None) -> list[Path]:
    """Write named pictures as PNG into the output folder: prefix_name_00001_.png, one counter for all of them.

    The names have to differ. The pictures may be made one by one. Raises as save_place and write_files.
    """
    folder, start, _ = save_place(prefix, folder_paths.get_output_directory())
    form = re.compile(re.escape(start) + r"_.+_(\d+)_\.png", re.IGNORECASE)
    with named(folder / start):
        names = os.listdir(folder)
    counter = 1 + max((int(match[1]) for file in names if (match := form.fullmatch(file))), default=0)
    paths = []
    for name, picture in pictures:
        target = BytesIO()
        picture.save(target, "PNG", pnginfo=info, compress_level=4)
        paths.append(folder / f"{start}_{name}_{counter:05}_.png")
        write_files(paths[-1].parent, {paths[-1].name: target.getvalue()})
    return paths


def scores_input() -> io.Input:
    """A socket for the scores of each of any number of methods."""
    one = ScoresSocket.Input("scores", tooltip="From Score Images, Score Drift or Score Diversity.")
    return io.Autogrow.Input(
        "scores",
        tooltip="One socket for the scores of each node.",
        template=io.Autogrow.TemplatePrefix(one, prefix="scores", min=1, max=MAX_ROWS),
    )


def lines(text: Iterable[str]) -> list[str]:
    """The lines of a multiline widget without empty ones at the end."""
    return "\n".join(text).rstrip().split("\n") if "".join(text).strip() else []


def in_order(grown: dict[str, list[Any]] | None) -> list[list[Any]]:
    """Values of a growing input, each a list, in the order of their sockets (name0, name1, ...)."""
    connected = {name: values for name, values in (grown or {}).items() if values is not None}
    return [connected[name] for name in sorted(connected, key=lambda name: int("".join(filter(str.isdigit, name))))]
