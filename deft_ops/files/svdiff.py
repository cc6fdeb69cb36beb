"""SVDiff files, `spectral_shifts.safetensors` and `spectral_shifts_te.safetensors`: `<diffusers path>.delta`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .. import methods
from ..adapter import Adapter, foreign, layers, validate
from ..methods import svdiff
from . import safe
from .source import Source

NAME = "svdiff"
NETWORK_FILE, TEXT_FILE = "spectral_shifts.safetensors", "spectral_shifts_te.safetensors"
_TEXT, _IN_TRANSFORMERS = "text_encoders.", ".transformer."


def matches(source: Source) -> bool:
    """Whether the file has spectral shifts."""
    return any(key.endswith(".delta") for key in source.tensors)


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter with the shifts under their names. `projector` is not used."""
    return Adapter(source.tensors, source.metadata)


def write(adapter: Adapter, folder: str | Path, names: Mapping[str, str]) -> Path:
    """Write the files of the network and of the text encoder, as far as there are such layers; returns the folder.

    `names` gives each layer's module path in diffusers; a text encoder's path is in its native name. Raises ValueError
    for another method, for layers without a name there, and for two text encoders, which the format cannot tell apart.
    """
    folder = Path(folder)
    validate(adapter, f"The adapter for {folder.name}")
    groups = layers(adapter)
    if foreign(adapter) or any(methods.method_of(group) is not svdiff.METHOD for group in groups.values()):
        raise ValueError("An SVDiff folder holds SVDiff layers only: choose the native format for this adapter.")
    network: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    encoders = set()
    for name, group in groups.items():
        if name.startswith(_TEXT):
            encoder, _, path = name.partition(_IN_TRANSFORMERS)
            encoders.add(encoder)
            text[f"{path}.delta"] = group["delta"]
        elif name in names:
            network[f"{names[name]}.delta"] = group["delta"]
        else:
            raise ValueError(f"Layer {name} has no name in diffusers, or is a part of one: choose the native format.")
    if len(encoders) > 1:
        raise ValueError(f"An SVDiff folder has room for one text encoder, not {', '.join(sorted(encoders))}.")
    contents = {
        file: safe.to_bytes(tensors, {"format": "pt"})
        for file, tensors in ((NETWORK_FILE, network), (TEXT_FILE, text))
        if tensors
    }
    safe.write_files(folder, contents)
    return folder
