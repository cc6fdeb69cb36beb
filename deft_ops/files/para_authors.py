"""Files of PaRa's authors: kohya's LoRA names, but W - up down, whatever alpha says (their forward uses none).

Their tensors are those of a LoRA: choose the format by hand. The name that their code gives files is
recognised. Their "light" variant has no lora_down: W - up up^T W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..adapter import Adapter, from_layers
from .layout import by_layer, numbers, put, spell
from .source import Source

NAME = "para_authors"
_UP, _DOWN, _ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"
_HINT = "left_column_learn_Q"


def matches(source: Source) -> bool:
    """Whether the file has the name that the authors' code gives it."""
    return _HINT in source.path.name and any(key.endswith(_UP) for key in source.tensors)


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter: LoRA layers with the sign in up and alpha = rank, or PaRa layers where there is no down matrix."""
    groups, other_tensors = by_layer(source, (_UP, _DOWN, _ALPHA))
    layers: dict[str, dict[str, Tensor]] = {}
    for name, group in groups.items():
        if _UP not in group:
            there = next(iter(group))
            raise ValueError(
                f"{source.path} has {name}{there} without {name}{_UP}: it is not a file of PaRa's authors, choose "
                "another format."
            )
        up = numbers(source, f"{name}{_UP}", group[_UP])
        if up.ndim < 2:
            raise ValueError(f"{source.path} has {name}{_UP} of shape {list(up.shape)}, but a matrix is needed.")
        if _DOWN in group:
            if not group[_DOWN].ndim:
                raise ValueError(f"{source.path} has {name}{_DOWN} as a single number, but a matrix is needed.")
            alpha = torch.tensor(float(len(group[_DOWN])))
            put(layers, name, {"lora_up.weight": -up, "lora_down.weight": group[_DOWN], "alpha": alpha}, source)
        else:
            put(layers, name, {"deft_Q": up.flatten(1).contiguous()}, source)
    adapter = from_layers(layers)
    spell(adapter, source, {"deft_Q": _UP})
    adapter.update(other_tensors)
    adapter.metadata["note"] = f"{source.path.name} is read as a file of PaRa's authors: subtracted, alpha ignored."
    return adapter
