"""What a reader gets: the content of one file with the records that lie beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import safe

PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """One file: where it lies, its tensors, its header metadata, and the adapter_config.json beside it (or None)."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any] | None


def open_source(path: str | Path) -> Source:
    """Open a .safetensors file or a PEFT folder. Raises FileNotFoundError or ValueError naming the file."""
    path = Path(path)
    if path.is_dir():
        path = path / PEFT_WEIGHTS
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(f"{path} is a PyTorch pickle, which is not read here: save its tensors as .safetensors.")
    tensors, metadata = safe.read_tensors(path)
    sibling = path.parent / PEFT_CONFIG
    return Source(path, tensors, metadata, safe.read_json(sibling) if sibling.is_file() else None)
