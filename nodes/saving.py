"""Save adapters and export them as LoRA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..convert.lora_naming import NAMINGS
from ..deft_ops import modelspec
from ..deft_ops.adapter import Adapter, validate, with_layers_of_core
from ..deft_ops.files import native, peft_writer, svdiff
from ..deft_ops.version import VERSION
from ..disk.errors import named
from ..matching.match import sliced_shape
from ..models.base_weights import Shapes
from ..models.names import diffusers_names, model_names, module_names, target_key
from .adapters import CATEGORY
from .output import listed, save_place, text_ui
from .sockets import LoraModel


def write_peft(adapter: Adapter, folder: Path, model: Any, header: Mapping[str, str]) -> None:
    """The PEFT folder, with what managers read in the header of its weights."""
    names, shapes = in_diffusers(adapter, model)
    peft_writer.write(adapter, folder, names, shapes, modelspec.of_managers({**adapter.metadata, **header}))


def write_svdiff(adapter: Adapter, folder: Path, model: Any, header: Mapping[str, str]) -> None:
    """The SVDiff folder, whose files have no header of their own."""
    svdiff.write(adapter, folder, in_diffusers(adapter, model)[0])


def in_diffusers(adapter: Adapter, model: Any) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The names in diffusers of an adapter's layers, whatever it calls them, and the shapes of their weights."""
    names, whole = module_names(model), Shapes(model.model)
    shapes = {name: whole[f"{name}.weight"] for name in names}
    theirs = {target: name for name, target in diffusers_names(model).items()}
    theirs |= {f"{name}.weight": module for name, module in names.items()}
    meant = model_names(model)
    for layer in with_layers_of_core(adapter)[0]:
        target = meant.get(layer)
        if layer not in names and target in theirs:
            names[layer] = theirs[target]
            shapes[layer] = sliced_shape(whole[target_key(target)], target)
    return names, shapes


@dataclass(frozen=True)
class FolderFormat:
    """A folder under diffusers' names: what the help page says of it, and its writer."""

    words: str
    write: Callable[[Adapter, Path, Any, Mapping[str, str]], None]


# By what they are called in the widget; the native format is another one.
FOLDERS = {
    "PEFT folder": FolderFormat(
        words="adapter_model.safetensors and adapter_config.json, which PEFT and diffusers read; it holds no fused "
        "layers and few methods' convolutions",
        write=write_peft,
    ),
    "SVDiff folder": FolderFormat(
        words="spectral_shifts.safetensors, and ..._te for a text encoder, which SVDiff's common implementation reads",
        write=write_svdiff,
    ),
}
_NATIVE = "native (.safetensors)"
SAVED_FORMATS = [_NATIVE, *FOLDERS]
FORMAT_WORDS = {
    _NATIVE: "one .safetensors under ComfyUI's layer names, for this pack and, while it is installed, ComfyUI's own "
    "Load LoRA",
    **{name: folder.words for name, folder in FOLDERS.items()},
}
PLACES = ["models/loras", "output"]


def prefix_input(default: str) -> io.String.Input:
    """The prefix of a file within its place."""
    return io.String.Input(
        "filename_prefix", default=default, tooltip="Folder and name; a counter is added, nothing is overwritten."
    )


def place_input() -> io.Combo.Input:
    """The choice of ComfyUI's folder that a file goes to."""
    return io.Combo.Input(
        "place",
        options=PLACES,
        default=PLACES[0],
        tooltip="models/loras, where loaders find it, or the output folder.",
    )


def next_path(prefix: str, place: str) -> Path:
    """The path of the next file of this prefix, without suffix: folder/name_00001_.

    Raises:
        ValueError: an unknown place, a zero character.
        NotWritten: a name that the system refuses; it is an OSError.
    """
    if place not in PLACES:
        raise ValueError(f"Unknown place {place!r}: choose one of {', '.join(PLACES)}.")
    root = folder_paths.get_folder_paths("loras")[0] if place == PLACES[0] else folder_paths.get_output_directory()
    folder, name, counter = save_place(prefix, root)
    with named(folder / name):
        while (path := folder / f"{name}_{counter:05}_").exists() or path.with_name(
            path.name + ".safetensors"
        ).exists():
            counter += 1
    return path


def as_adapter(tensors: dict[str, Tensor]) -> Adapter:
    """A LORA_MODEL from anywhere as an Adapter: ComfyUI's own nodes pass plain dicts."""
    return tensors if isinstance(tensors, Adapter) else Adapter(tensors)


def header_of(adapter: Adapter, path: Path) -> dict[str, str]:
    """The header of a native file of this adapter."""
    return native.native_metadata(
        adapter,
        name=path.name.rstrip("_"),
        version=VERSION,
        base_name=adapter.metadata.get("base_model", ""),
        base_hash=adapter.metadata.get("base_hash", ""),
    )


def write_native(adapter: Adapter, path: Path, mark: str = "") -> Path:
    """Write a native file with its header, and the mark of the run whose file it is; returns the file."""
    header = header_of(adapter, path) | ({native.RUN: mark} if mark else {})
    return native.write(adapter, path.with_name(path.name + ".safetensors"), header)


def of_base(adapter: Adapter, model: Any) -> Adapter:
    """The adapter with what managers read of its base, by its MODEL, where its metadata does not say that itself."""
    base = None if model is None else modelspec.base_of(model.model)
    completed = Adapter(adapter, adapter.metadata | modelspec.completed(adapter.metadata, base))
    completed.cost = adapter.cost
    return completed


class DEFTSaveAdapter(io.ComfyNode):
    """The node that saves an adapter as a native file, a PEFT folder and the like."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: an adapter, a format and a place; the path of what was written."""
        return io.Schema(
            node_id="DEFTSaveAdapter",
            display_name="Save Adapter",
            category=CATEGORY,
            description="Saves an adapter with its settings in the header, as a native file for this pack and, "
            "while it is installed, ComfyUI's own Load LoRA, or as a folder for another program.",
            search_aliases=["save lora", "save deft", "peft", "save adapter", "保存 lora", "保存适配器"],
            is_output_node=True,
            inputs=[
                LoraModel.Input("adapter", tooltip="The adapter to save."),
                prefix_input("adapters/deft"),
                io.Combo.Input(
                    "format",
                    options=SAVED_FORMATS,
                    default=_NATIVE,
                    tooltip="native: one .safetensors under ComfyUI's layer names. Others are folders for other "
                    "programs, under diffusers' names; they need the model, and what they cannot hold is refused by "
                    "name. The help page describes each.",
                ),
                place_input(),
                io.Model.Input(
                    "model", optional=True, tooltip="For a folder: the model whose layer names are translated."
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="What was written.")],
        )

    @classmethod
    def execute(
        cls, adapter: dict[str, Tensor], filename_prefix: str, format: str, place: str, model: Any = None
    ) -> io.NodeOutput:
        """Write the file or folder."""
        adapter = of_base(as_adapter(adapter), model)
        validate(adapter)
        path = next_path(filename_prefix, place)
        files: dict[str, list[dict[str, str]]] = {}
        if format == _NATIVE:
            path = write_native(adapter, path)
            files = listed([path]) if place == PLACES[1] else {}
        elif format not in FOLDERS:
            raise ValueError(f"Unknown format {format!r}: choose one of {', '.join(SAVED_FORMATS)}.")
        elif model is None:
            raise ValueError(f"A {format} needs the model that the adapter was trained on: connect it.")
        else:
            FOLDERS[format].write(adapter, path, model, header_of(adapter, path))
        return io.NodeOutput(str(path), ui={**text_ui(str(path)), **files})


class DEFTExportLoRA(io.ComfyNode):
    """The node that makes a plain LoRA of an adapter and its base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: an adapter, its base, a rank and a place; the LoRA, its file and a report."""
        return io.Schema(
            node_id="DEFTExportLoRA",
            display_name="Export as LoRA (exact)",
            category=CATEGORY,
            description="Converts an adapter to an ordinary LoRA that has exactly the same effect"
            " on this base model, for programs that only read LoRA. On another base "
            "its effect differs.",
            search_aliases=[
                "convert",
                "lora",
                "deft to lora",
                "kohya",
                "diffusers",
                "convert to lora",
                "转换 lora",
                "导出 lora",
            ],
            is_output_node=True,
            inputs=[
                LoraModel.Input("adapter", tooltip="The adapter to convert."),
                io.Model.Input("model", tooltip="The base that it was trained on, without other adapters on it."),
                io.Clip.Input("clip", optional=True, tooltip="The base's CLIP, for adapters of text encoders."),
                prefix_input("adapters/exported_lora"),
                place_input(),
                io.Combo.Input(
                    "naming",
                    options=list(NAMINGS),
                    default="comfyui",
                    optional=True,
                    tooltip="The program whose layer names the file uses. ComfyUI reads all of "
                    "them; the help page explains each.",
                ),
                io.Int.Input(
                    "rank_limit",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="0: exact. Changes of low rank, such as DEFT's, keep their rank; others, such as SVDiff's, "
                    "become a LoRA of full rank, as large as the model's own "
                    "layers. Another number reduces every layer to its best approximation"
                    " of that rank, and the report says how much of the change is kept.",
                ),
            ],
            outputs=[
                LoraModel.Output(
                    display_name="lora", tooltip="The LoRA, for ComfyUI's Load LoRA Model or Apply Adapter."
                ),
                io.String.Output(display_name="path", tooltip="The file that was written."),
                io.String.Output(
                    display_name="report",
                    tooltip="Layers, ranks, assumptions, and a warning if the base is another one.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        adapter: dict[str, Tensor],
        model: Any,
        filename_prefix: str,
        place: str,
        naming: str = "comfyui",
        rank_limit: int = 0,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Convert and write."""
        from ..convert.export import export

        adapter = as_adapter(adapter)
        validate(adapter)
        lora, report = export(adapter, model, clip, naming=naming, rank=rank_limit)
        lora.metadata = modelspec.about_words(adapter.metadata) | lora.metadata
        path = write_native(of_base(lora, model), next_path(filename_prefix, place))
        logging.info(report.text())
        return io.NodeOutput(lora, str(path), report.text(), ui=text_ui(str(path), report.text()))


NODES: list[type[io.ComfyNode]] = [DEFTSaveAdapter, DEFTExportLoRA]
