"""The DEFT repository's files for SDXL, `project_replace.pt`: `<unet path>.lora_layer.P`, `.R_new` and `.gate`.

Its layer is W - P_proj W + sigmoid(gate) Q R_new with P_proj = P P^T (no option) or qr; the file does not say which.
Without any R_new it is what the repository calls PaRa there (trained with qr). The gate of such a file means nothing.

With `.lora_A` [out, r] and `.lora_B` [r, in] the layer is that of additive_update, a LoRA: W + sigmoid(gate) 8 / r A B.
Its P and R_new are there as well, untrained, and are not used.
"""

from __future__ import annotations

from torch import Tensor

from ..adapter import Adapter, from_layers
from .layout import SVD_SIGNS, by_layer, factors_of_authors, gate_weight, lacking, lora_of_authors, matrix, put, spell
from .source import Source

NAME = "deft_sdxl"
_LAYER = ".lora_layer"
_P, _R, _GATE, _A, _B = _ENDINGS = tuple(f"{_LAYER}{part}" for part in (".P", ".R_new", ".gate", ".lora_A", ".lora_B"))
_SPELLED = {"deft_Q": _P, "deft_right": _P, "deft_R": _R, "lora_up.weight": _A, "lora_down.weight": _B}
# What the repository's layer takes for lora_alpha; nothing there gives it another, and the file does not hold it.
_ALPHA = 8.0


def matches(source: Source) -> bool:
    """Whether a layer of this kind is there."""
    return any(key.endswith((_P, _A)) for key in source.tensors)


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter of the file's DEFT, PaRa (no R_new) or LoRA layers. Raises ValueError for half a layer."""
    groups, other_tensors = by_layer(source, _ENDINGS)
    loras = {name for name, group in groups.items() if _A in group or _B in group}
    projected = groups.keys() - loras
    para = not any(_R in groups[name] for name in projected)
    chosen = projector if projector != "auto" else "qr" if para else "ppt"
    layers: dict[str, dict[str, Tensor]] = {}
    for name, group in groups.items():
        gate = gate_weight(source, f"{name}{_GATE}", group.get(_GATE))
        if name in loras:
            layer = lora_of_authors(source, f"{name}{_LAYER}", group.get(_A), group.get(_B), _ALPHA, gate)
        elif _P not in group:
            raise lacking(source, f"{name}{next(iter(group))}", f"{name}{_P}")
        elif not para and _R not in group:
            raise lacking(source, f"{name}{_P}", f"{name}{_R}")
        else:
            Q, right = factors_of_authors(matrix(source, f"{name}{_P}", group[_P]), chosen)
            layer = {"deft_Q": Q} if right is Q else {"deft_Q": Q, "deft_right": right}
            if _R in group:
                layer["deft_R"] = gate * matrix(source, f"{name}{_R}", group[_R]).float()
        put(layers, name, layer, source)
    adapter = from_layers(layers)
    spell(adapter, source, _SPELLED)
    adapter.update(other_tensors)
    notes = []
    if projected:
        adapter.metadata["projector"] = chosen
        if projector == "auto":
            kind = "PaRa, because it has no R" if para else "DEFT"
            notes.append(
                f"{source.path.name} has no record of its projector: {chosen} is assumed ({kind}); the widget "
                "overrides it."
            )
        if chosen == "svd" and not para:
            notes.append(SVD_SIGNS)
    if loras:
        notes.append(f"{source.path.name} has no record of its LoRA's alpha: 8 is assumed, its repository's default.")
    if notes:
        adapter.metadata["note"] = " ".join(notes)
    return adapter
