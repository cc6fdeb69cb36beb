"""SVDiff files, `spectral_shifts.safetensors` and `spectral_shifts_te.safetensors`: `<diffusers path>.delta`."""

from __future__ import annotations

from ..adapter import Adapter
from .source import Source

NAME = "svdiff"


def matches(source: Source) -> bool:
    """Whether spectral shifts are there."""
    return any(key.endswith(".delta") for key in source.tensors)


def read(source: Source, projector: str = "auto") -> Adapter:
    """The shifts under their names. `projector` is not used."""
    return Adapter(source.tensors, source.metadata)
