"""PyTorch's scaled-dot-product attention for the time of a training.

ComfyUI's chunked attention is slower to train and chooses its chunks by the free memory, so that recomputation under
gradient checkpointing may take another way than the forward pass. Others (Sage ...) have no gradient.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention as attention

OVERRIDE = "optimized_attention_override"
_NAMES = ("optimized_attention", "optimized_attention_masked")


@contextmanager
def pytorch_attention() -> Iterator[None]:
    """Replace ComfyUI's choice in every module that has imported it: not all models read the override option."""
    chosen = {name: getattr(attention, name) for name in _NAMES}
    replaced = [
        (module, name)
        for path, module in list(sys.modules.items())
        if path.startswith("comfy.")
        for name in _NAMES
        if getattr(module, "__dict__", {}).get(name) is chosen[name] and chosen[name] is not attention.attention_pytorch
    ]
    try:
        for module, name in replaced:
            setattr(module, name, attention.attention_pytorch)
        yield
    finally:
        for module, name in replaced:
            setattr(module, name, chosen[name])


def without_override(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """The model's options without an attention of the user's, which may have no gradient."""
    return {name: value for name, value in transformer_options.items() if name != OVERRIDE}
