"""What is done with an adapter after it was read: applied to a small SD3 of ComfyUI's, its weights computed."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import torch

# Layers of the model below, as [out, in], with the names that files have for them.
BLOCK = "joint_blocks.0.x_block"
SHAPES = {
    f"{BLOCK}.attn.proj": (64, 64),
    f"{BLOCK}.mlp.fc1": (256, 64),
    f"{BLOCK}.attn.qkv": (192, 64),
}


class Logged(Exception):
    """ComfyUI could not compute a patch, which it logs only."""


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@functools.cache
def model() -> Any:
    """The model."""
    from ..comfy import models

    return models.sd3()


def use(path: Path) -> None:
    """Read an adapter and do with it what nodes do: apply, describe, name, show."""
    from deft_pack.convert.inspect import inspect
    from deft_pack.deft_ops import files, trigger_words
    from deft_pack.deft_ops.files import native
    from deft_pack.models.weights_by_name import weights_by_name
    from deft_pack.patches.apply import apply

    base = model()
    adapter = files.read(path, base=weights_by_name(base, None))
    native.native_metadata(adapter, name="x", version="1")
    if path.is_file():
        trigger_words.words_of(path)
    patched, _, report = apply(adapter, base, source=path.name)
    report.text()
    _compute(patched)
    inspect(adapter).text()


def _compute(patched: Any) -> None:
    """Compute the patched weights as ComfyUI does when it loads them."""
    import comfy.lora

    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        with torch.inference_mode():
            for key, patches in patched.patches.items():
                weight = patched.model.get_parameter(key).detach().float().clone()
                comfy.lora.calculate_weight(patches, weight, key)
    finally:
        logging.getLogger().removeHandler(errors)
    if errors.messages:
        raise Logged(errors.messages[0])
