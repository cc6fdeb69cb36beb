"""The parts that several node files share: sockets, categories, files of models/loras."""

from __future__ import annotations

import time
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..trainers.run import history

LoraModel = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")
LoraStack = io.Custom("LORA_STACK")  # of other packs: see stack.entries_of
TrainingSettings = io.Custom("DEFT_TRAINING_SETTINGS")
TrainingPreviews = io.Custom("DEFT_TRAINING_PREVIEWS")
ScorerSocket = io.Custom("DEFT_SCORER")
ScoresSocket = io.Custom("DEFT_SCORES")
ADAPTER_FOLDER = "loras"
RUNS = "output/"  # how the names of the runs' adapters begin
MOST_RUNS = 50  # the newest, whose adapters are offered
_KEPT = 1.0  # seconds
_run_adapters: tuple[float, Path, dict[str, Path]] | None = None


def run_adapters() -> dict[str, Path]:
    """The adapters beside the checkpoints of trainings, by the names that the file widgets have for them.

    Many nodes ask at once, so that the answer is kept for a moment.
    """
    global _run_adapters
    root, now = Path(folder_paths.get_output_directory()).resolve(), time.monotonic()
    if _run_adapters is None or _run_adapters[1] != root or now - _run_adapters[0] > _KEPT:
        names = {
            f"{RUNS}{folder.relative_to(root).as_posix()}/{entry.name}": folder / entry.name
            for folder in list(history.runs(root).values())[:MOST_RUNS]
            for _, entry in history.numbered(folder, history.ADAPTER_NAME)
        }
        _run_adapters = now, root, names
    return _run_adapters[2]


def adapter_files() -> list[str]:
    """The names that the file widgets offer: ComfyUI's LoRA files, PEFT folders by their weights file among them; then
    the adapters of trainings.
    """
    files = folder_paths.get_filename_list(ADAPTER_FOLDER)
    return [*files, *(name for name in run_adapters() if name not in files)]


def full_path(name: str) -> str | Path | None:
    """The file of a name that the widgets offer; None if there is none, and for what is linked in and is no name."""
    if not isinstance(name, str) or "\0" in name:
        return None
    path = folder_paths.get_full_path(ADAPTER_FOLDER, name)
    if path is not None or not name.startswith(RUNS):
        return path
    file = run_adapters().get(name)
    return file if file is not None and file.is_file() else None


def adapter_path(name: str) -> Path:
    """The file of a widget's value, which may come from an API call and be anything.

    Raises:
        FileNotFoundError: no such file in models/loras, nor among the trainings' adapters.
    """
    path = full_path(name)
    if path is None:
        raise FileNotFoundError(
            f"There is no adapter file {name!r} in models/loras: put it there and press R to refresh the list."
        )
    return Path(path)


def file_state(name: str) -> str:
    """Name, time and size of a file: a node that reads it runs again when one of them changes."""
    path = full_path(name)
    if path is None:
        return str(name)
    stat = Path(path).stat()
    return f"{name} {stat.st_mtime_ns} {stat.st_size}"
