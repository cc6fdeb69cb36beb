"""The DEFT repository's files for SDXL, `project_replace.pt`: `<unet path>.lora_layer.P`, `.R_new` and `.gate`.

Its layer is W - P_proj W + sigmoid(gate) Q R_new with P_proj = P P^T (no option) or qr; the file does not say which.
Without any R_new it is what the repository calls PaRa there (trained with qr). The gate of such a file means nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..adapter import Adapter, from_layers
from ..projectors import project
from .layout import by_layer, matrix, put
from .source import Source

NAME = "deft_sdxl"
_LAYER = ".lora_layer"
_ENDINGS = tuple(f"{_LAYER}{part}" for part in (".P", ".R_new", ".gate"))


def matches(source: Source) -> bool:
    """Whether a layer of this kind is there."""
    return any(key.endswith(_ENDINGS[0]) for key in source.tensors)


def read(source: Source, projector: str = "auto") -> Adapter:
    """DEFT layers, or PaRa layers if the file has no R_new. Raises ValueError for tensors without their P."""
    groups, rest = by_layer(source, _ENDINGS)
    para = not any(_ENDINGS[1] in group for group in groups.values())
    chosen = projector if projector != "auto" else "qr" if para else "ppt"
    found: dict[str, dict[str, Tensor]] = {}
    for name, group in groups.items():
        if _ENDINGS[0] not in group:
            raise ValueError(f"{source.path} has {name}{_LAYER} without its P: save or download it again.")
        Q, right = project(matrix(source, f"{name}{_ENDINGS[0]}", group[_ENDINGS[0]]), chosen)
        layer = {"deft_Q": Q} if right is Q or torch.equal(Q, right) else {"deft_Q": Q, "deft_right": right}
        if _ENDINGS[1] in group:
            gate = group.get(_ENDINGS[2])
            R = group[_ENDINGS[1]].float()
            layer["deft_R"] = R if gate is None else torch.sigmoid(gate.float()) * R
        put(found, name, layer, source)
    adapter = from_layers(found)
    adapter.update(rest)
    adapter.metadata["projector"] = chosen
    if projector == "auto":
        kind = "PaRa, as it has no R" if para else "DEFT"
        adapter.metadata["note"] = (
            f"{source.path.name} does not say its projector: taken as {chosen} ({kind}); the widget overrules it."
        )
    return adapter
