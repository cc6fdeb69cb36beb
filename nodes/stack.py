"""Several adapter files in one node, one after the other, and their trigger words."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy_api.v0_0_2 import io

from ..deft_ops.trigger_words import distinct, records_of, words_of
from ..deft_ops.wording import cut
from ..patches.apply import MODES, STACKING
from .adapters import CATEGORY, SEARCH, apply_file, mode_input, stacking_input
from .sockets import ADAPTER_FOLDER, LoraStack, adapter_files, adapter_path, file_state

_ROWS = 5  # more: a second node behind this one
_NONE = "None"  # the file of an empty row, in other packs too


class StackRow(NamedTuple):
    """A file of the stack, and what messages call its place."""

    place: str
    file: str
    strength_model: float
    strength_clip: float


def entries_of(stack: Any) -> list[StackRow]:
    """The files of another pack's LORA_STACK: a list of (name, strength of the model, strength of the CLIP).

    Lists in it are taken apart, the strength of the CLIP may be missing, and entries without a file are skipped, as
    other packs do. Raises ValueError for what cannot be read.
    """
    rows = []
    for number, item in enumerate(_flat(stack), start=1):
        place = f"Entry {number} of lora_stack"
        if not isinstance(item, (list, tuple)) or not 2 <= len(item) <= 3 or not all(map(_strength, item[1:])):
            raise ValueError(
                f"{place} cannot be read: {cut(repr(item))}. It has to be a file name, the strength for the model and "
                "the strength for the CLIP: connect the LORA_STACK output of another node."
            )
        if item[0] not in ("", _NONE):
            rows.append(StackRow(place, _listed(item[0]), float(item[1]), float(item[-1])))
    return rows


def _flat(stack: Any) -> Iterator[Any]:
    """The entries of a stack and of the stacks in it: an entry begins with a name, a stack does not."""
    if not isinstance(stack, (list, tuple)) or stack and isinstance(stack[0], str):
        yield stack
        return
    for item in stack:
        yield from _flat(item)


def _strength(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _listed(name: str) -> str:
    """A name as ComfyUI's list of models/loras has it, of one with a whole path or of another system's."""
    for folder in folder_paths.get_folder_paths(ADAPTER_FOLDER):
        if Path(name).is_absolute() and Path(name).is_relative_to(folder):
            return str(Path(name).relative_to(folder))
    other = name.replace("\\", "/")
    return other if folder_paths.get_full_path(ADAPTER_FOLDER, name) is None else name


def rows_of(inputs: Mapping[str, Any]) -> list[StackRow]:
    """The rows of the node that are on and have a file."""
    rows = []
    for number in range(1, _ROWS + 1):
        file, strength = inputs.get(f"file_{number}", _NONE), float(inputs.get(f"strength_{number}", 1.0))
        if inputs.get(f"on_{number}", True) and file not in ("", _NONE):
            rows.append(StackRow(f"Row {number}", file, strength, strength))
    return rows


def row_inputs(number: int, options: list[str]) -> list[io.Input]:
    """The widgets of a row."""
    return [
        io.Combo.Input(
            f"file_{number}",
            options=options,
            default=_NONE,
            optional=True,
            tooltip=f"Row {number}: a file of models/loras, or None for an empty row. It comes after the rows above.",
        ),
        io.Float.Input(
            f"strength_{number}",
            default=1.0,
            min=-20.0,
            max=20.0,
            step=0.01,
            optional=True,
            tooltip=f"Row {number}: how strongly the diffusion model and the CLIP are changed: W + strength x delta. "
            "0 is the base, 1 the adapter as trained.",
        ),
        io.Boolean.Input(
            f"on_{number}",
            default=True,
            optional=True,
            tooltip=f"Row {number}: off leaves the file out, as if the row were empty. The file need not be there.",
        ),
    ]


class DEFTAdapterStack(io.ComfyNode):
    """Files and strengths onto MODEL and CLIP, in the order of the rows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: rows of a file and strengths; the changed MODEL and CLIP, the stack and its trigger words."""
        options = [_NONE, *adapter_files()]
        return io.Schema(
            node_id="DEFTAdapterStack",
            display_name="Adapter Stack",
            category=CATEGORY,
            description="Applies several adapter files of any kind, one after the other: first "
            "the connected lora_stack, then the rows from top to bottom. The order "
            "matters for methods that remove a part of what is there, such as DEFT and PaRa. Returns"
            " the files' trigger words, and a lora_stack for nodes of other packs.",
            search_aliases=[
                *SEARCH,
                "apply several loras",
                "lora stack",
                "lora stacker",
                "multi lora",
                "trigger words",
                "堆叠",
                "触发词",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The diffusion model to change. Without model and CLIP nothing is "
                    "applied, and the node only returns the lora_stack and the trigger "
                    "words.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP to change, for files with text encoder layers."),
                LoraStack.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="A LORA_STACK of this or another pack. Its files are applied first, then the rows.",
                ),
                *(item for number in range(1, _ROWS + 1) for item in row_inputs(number, options)),
                stacking_input(optional=True),
                mode_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The changed diffusion model."),
                io.Clip.Output(display_name="clip", tooltip="The changed CLIP."),
                LoraStack.Output(
                    display_name="lora_stack",
                    tooltip="The connected lora_stack and the rows that are on, for nodes of "
                    "other packs that apply or extend a LORA_STACK. The returned model "
                    "and CLIP already have these files applied.",
                ),
                io.String.Output(
                    display_name="trigger_words",
                    tooltip="The trigger words of all files that are on, in order, each once, "
                    "separated by commas. Empty if no file has any.",
                ),
                io.String.Output(
                    display_name="report", tooltip="For each file: matched layers, skipped layers, trigger words."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        file_1: str = _NONE,
        file_2: str = _NONE,
        file_3: str = _NONE,
        file_4: str = _NONE,
        file_5: str = _NONE,
    ) -> bool:
        """A row that is off may name a file that is not there; `execute` reports what is missing of the others."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[str]:
        """Run again when a file changes, or a record with its trigger words."""
        parts = []
        for entry in rows_of(inputs):
            parts.append(file_state(entry.file))
            path = folder_paths.get_full_path(ADAPTER_FOLDER, entry.file)
            states = [(record.name, record.stat()) for record in records_of(Path(path))] if path else []
            parts += [f"{name} {state.st_mtime_ns} {state.st_size}" for name, state in states]
        return parts

    @classmethod
    def execute(
        cls,
        model: Any = None,
        clip: Any = None,
        lora_stack: Any = None,
        stacking: str = STACKING[0],
        mode: str = MODES[0],
        **rows: Any,
    ) -> io.NodeOutput:
        """Apply the files one after the other. Raises FileNotFoundError or ValueError with the place in the stack."""
        entries = [*(entries_of(lora_stack) if lora_stack else []), *rows_of(rows)]
        words: list[str] = []
        lines = [] if entries else ["No file is on."]
        for place, file, strength_model, strength_clip in entries:
            how: dict[str, Any] = {"strength_model": strength_model, "strength_clip": strength_clip}
            try:
                file_words = words_of(adapter_path(file))
                if model is None and clip is None:
                    lines.append(f"{place}: {file}, not applied: there is no model")
                else:
                    model, clip, report = apply_file(file, model, clip, **how, stacking=stacking, mode=mode)
                    lines.append(f"{place}: {report.text()}")
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{place}: {error}") from error
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            words += file_words.words
            trigger_text = (
                f"{', '.join(file_words.words)} ({file_words.source})"
                if file_words.words
                else "none in the file or beside it"
            )
            lines += [f"trigger words: {trigger_text}", *file_words.notes]
        text = "\n".join(lines)
        logging.info(text)
        stack = [(file, strength_model, strength_clip) for _, file, strength_model, strength_clip in entries]
        return io.NodeOutput(model, clip, stack, ", ".join(distinct(words)), text)


NODES: list[type[io.ComfyNode]] = [DEFTAdapterStack]
