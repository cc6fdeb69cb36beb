"""The input of a reader: the content of one file with the records that lie beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import pickles, safe

PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_HEADER = "lora_adapter_metadata"  # where diffusers keeps the record in a file's header
PEFT_PREFIX = "base_model.model."  # before all layer names of PEFT
# What a folder may hold, in the order of preference.
_IN_FOLDERS = (
    PEFT_WEIGHTS,
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "knowledge_injection_state.bin",
    "project_replace.pt",
    "para_rank_state.bin",
    "spectral_shifts.safetensors",
)


@dataclass(frozen=True)
class Source:
    """One file: where it lies, its tensors, its header metadata, and the adapter_config.json beside it (or None).

    `note` names what of the file was skipped, if anything.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any] | None
    note: str = ""

    @property
    def is_peft_weights(self) -> bool:
        """Whether the file's name says that the adapter_config.json beside it is its own."""
        return self.config is not None and self.path.stem == Path(PEFT_WEIGHTS).stem


def open_source(path: str | Path) -> Source:
    """Open a .safetensors file, a pickled one, or a folder with one. Raises FileNotFoundError or ValueError."""
    path = Path(path)
    if path.is_dir():
        path = path / next((name for name in _IN_FOLDERS if (path / name).is_file()), PEFT_WEIGHTS)
    note = ""
    metadata: dict[str, str] = {}
    if path.suffix.lower() in pickles.PICKLE_SUFFIXES:
        tensors, note = pickles.read_tensors(path)
    else:
        tensors, metadata = safe.read_tensors(path)
    sibling = path.parent / PEFT_CONFIG
    return Source(path, tensors, metadata, safe.read_json(sibling) if sibling.is_file() else None, note)
