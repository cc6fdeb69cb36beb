"""Singular value decompositions of base weights, kept on disk: those of a large model take minutes."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...deft_ops.files import safe
from ...deft_ops.methods.contract import Base
from ...disk.errors import advice


class Decompositions:
    """The decompositions of one base, a file a layer in `folder` (None: nothing is kept).

    A file names the weight that it is of, so another base in the same folder does not take it. What cannot be read or
    written is decomposed again.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.used: list[Any] = []

    def of(self, name: str, weight: Tensor, base: Base[Any, Any]) -> Any:
        """`base.of(weight)` of the layer of this name, on the weight's device."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        plain = weight.detach().cpu().contiguous()
        digest = hashlib.sha256(plain.view(torch.uint8).numpy()).hexdigest()
        path = None if self.folder is None else self.folder / f"{name}.safetensors"
        tensors = None if path is None else _read(path, digest)
        if tensors is None:
            # A copy, because the weight may be an inference tensor; in rows, as from the file, for the same rounding.
            decomposition = base.of(weight.detach().clone())
            tensors = {key: value.contiguous() for key, value in vars(decomposition).items()}
            if path is not None:
                _write(path, tensors, digest)
        on_device = base.kind(**{key: value.to(weight.device) for key, value in tensors.items()})
        self.used.append(on_device)
        return on_device

    def tensors(self) -> list[Tensor]:
        """The tensors of all decompositions in use."""
        return [value for decomposition in self.used for value in vars(decomposition).values()]


def _read(path: Path, digest: str) -> dict[str, Tensor] | None:
    try:
        tensors, metadata = safe.read_tensors(path)
    except (OSError, ValueError):
        return None
    if metadata.get("weight") != digest:
        return None
    # In memory of their own: products of what lies anywhere in a file's bytes are rounded differently on some CPUs.
    return {key: value.clone() for key, value in tensors.items()}


def _write(path: Path, tensors: dict[str, Tensor], digest: str) -> None:
    try:
        safe.write_tensors(tensors, path, {"weight": digest})
    except OSError as error:
        reason = error.strerror or error
        logging.warning(f"The decomposition for {path} could not be kept ({reason}): {advice(error)}.")
