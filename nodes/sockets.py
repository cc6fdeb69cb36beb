"""The parts that several node files share: sockets, categories, files of models/loras."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

LoraModel = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")
LoraStack = io.Custom("LORA_STACK")  # of other packs: see stack.entries_of
TrainingSettings = io.Custom("DEFT_TRAINING_SETTINGS")
TrainingPreviews = io.Custom("DEFT_TRAINING_PREVIEWS")
ScorerSocket = io.Custom("DEFT_SCORER")
ScoresSocket = io.Custom("DEFT_SCORES")
FOLDER = "loras"


def adapter_files() -> list[str]:
    """The names that the file widgets offer: ComfyUI's LoRA files, PEFT folders by their weights file among them."""
    return folder_paths.get_filename_list(FOLDER)


def adapter_path(name: str) -> Path:
    """The file of a widget's value, which may come from an API call and be anything.

    Raises:
        FileNotFoundError: no such file in models/loras.
    """
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise FileNotFoundError(
            f"There is no adapter file {name!r} in models/loras: put it there and press R to refresh the list."
        )
    return Path(path)


def file_state(name: str) -> str:
    """Name, time and size of a file: a node that reads it runs again when one of them changes."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        return name
    stat = Path(path).stat()
    return f"{name} {stat.st_mtime_ns} {stat.st_size}"
