"""PEFT's files, written: the folder, and diffusers' one file with the record in its header; peft.py reads both.

A method's record has its form for PEFT, or the reason why there is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import methods
from ..adapter import Adapter, checked_factors, validate, with_layers_of_core
from . import safe
from .source import PEFT_CONFIG, PEFT_HEADER, PEFT_PREFIX, PEFT_WEIGHTS

# The methods of which there is a form.
_WRITTEN = tuple(name for name, method in methods.METHODS.items() if not isinstance(method.peft, str))


def write(
    adapter: Adapter,
    folder: str | Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the PEFT folder (adapter_model.safetensors, adapter_config.json); returns it.

    `names` gives each layer's module name in the diffusers or transformers model. `shapes`, the base weights' shapes by
    layer name, separates convolutions from linear layers. `metadata` goes into the header of the weights. Raises
    ValueError for what PEFT cannot hold: methods without a form, the ppt projector, convolutions (of all methods but
    LoKr), mixed methods, ranks or alphas that differ (DEFT), other formats, unnamed layers.
    """
    folder = Path(folder)
    tensors, config = _export(adapter, names, shapes or {}, f"The adapter for {folder.name}")
    prefixed = {f"{PEFT_PREFIX}{key}": tensor for key, tensor in tensors.items()}
    contents = {
        PEFT_CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        PEFT_WEIGHTS: safe.to_bytes(prefixed, {**(metadata or {}), "format": "pt"}),
    }
    safe.write_files(folder, contents)
    return folder


def write_diffusers(
    adapter: Adapter,
    path: str | Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write one .safetensors with the record in its header, as diffusers' save_lora_adapter does; returns the path.

    `prefix` ("unet", "transformer"), if given, stands before all keys and record fields, as in pipelines' files.
    `metadata` goes into the header too. Raises ValueError as `write` does.
    """
    path = Path(path)
    tensors, config = _export(adapter, names, shapes or {}, f"The adapter for {path.name}")
    start = f"{prefix}." if prefix else ""
    record = json.dumps({f"{start}{key}": value for key, value in config.items()}, indent=2, sort_keys=True)
    prefixed = {f"{start}{key}": tensor for key, tensor in tensors.items()}
    safe.write_tensors(prefixed, path, {**(metadata or {}), "format": "pt", PEFT_HEADER: record})
    return path


def _export(
    adapter: Adapter, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], source: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of PEFT by "<module>.<part>" and its configuration."""
    validate(adapter, source)
    by_layer, unclaimed = with_layers_of_core(adapter)
    if unclaimed:
        raise ValueError(f"{source} cannot be written for PEFT: {next(iter(unclaimed))} is of another format.")
    for name, layer in by_layer.items():
        if layer.method.name not in _WRITTEN:
            raise ValueError(
                f"{source} cannot be written for PEFT: layer {name} is of the method {layer.method.name}, and "
                f"{layer.method.peft}. Choose the native format; PEFT's is for {', '.join(_WRITTEN)}."
            )
        if name not in names:
            raise ValueError(f"{source} cannot be written for PEFT: layer {name} has no name in diffusers.")
        convolution = len(shapes.get(name, ())) > 2 or any(tensor.ndim > 2 for tensor in layer.tensors.values())
        if convolution and not layer.method.peft_convolutions:
            raise ValueError(f"{source} cannot be written for PEFT: layer {name} is a convolution.")
    kinds = {layer.method.name for layer in by_layer.values()}
    if len(kinds) > 1:
        raise ValueError(f"{source} cannot be written for PEFT: it mixes methods, but a PEFT adapter has only one.")
    kind = methods.get(kinds.pop())
    assert not isinstance(kind.peft, str)
    # On the CPU, where the signs of a QR factorisation are those that a reader on a CPU will find.
    factors = {
        name: methods.move(checked_factors(adapter, name, layer, source), device="cpu")
        for name, layer in by_layer.items()
    }
    tensors, config = kind.peft(factors, names, shapes, source)
    return tensors, {**config, "target_modules": _targets([names[name] for name in by_layer])}


def _targets(modules: list[str]) -> list[str] | str:
    """PEFT's target_modules: full names, which PEFT takes as endings, or a regular expression if a name has no dot."""
    if all("." in module for module in modules):
        return sorted(modules)
    return "|".join(re.escape(module) for module in sorted(modules))
