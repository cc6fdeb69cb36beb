"""Weight files: where they are looked for, and how they are read. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .backbones import BackboneSpec


def find_weights(spec: BackboneSpec, folders: Sequence[Path], explicit: Path | None = None) -> Path:
    """The weight file of a backbone: `explicit`, or the first of spec.files in the first folder that has one.

    Raises FileNotFoundError that says which file, where to put it, how large it is and where to get it.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise FileNotFoundError(f"{spec.name}: there is no weight file {explicit}.")
        return explicit
    for folder in folders:
        for name in spec.files:
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(
        f"The weights of {spec.name} are missing ({spec.size}): get {spec.source}, and put the file as "
        f"{' or '.join(spec.files)} into one of {', '.join(str(folder) for folder in folders)}.")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors, .pth, .pt or .bin file, in float32 where they are floating point.

    Raises ValueError for a file that cannot be read safely (a TorchScript archive, a pickle of code), that holds
    anything but tensors, or that holds NaN or infinite values.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and unpickler each raise their own kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a weight file ({reason}); "
                         "a .safetensors file of the same model is the safe choice.") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds more than the tensors of one model; take the file of the backbone alone.")
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{path}: the tensor {key} holds NaN or infinite values; the file is damaged.")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
