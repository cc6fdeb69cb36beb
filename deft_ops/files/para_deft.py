"""PaRa as the DEFT repository saves it, `para_rank_state.bin`: `<layer>.B` [out, r].

Its projectors: qr (Q Q^T, the only one that its training code really makes), tsvd (U diag(S) U^T) and eigen (of
B B^T + 1e-6 I; the part outside of B's columns, 1e-6 W, is skipped). The file does not name it: the widget does.
"""

from __future__ import annotations

from torch import Tensor

from ..adapter import Adapter, from_layers
from ..projectors import project
from .layout import by_layer, matrix, of_omnigen, put, spell
from .source import Source

NAME = "para_deft"
_OTHERS = (".B_dense", ".sparse_mask")


def matches(source: Source) -> bool:
    """Whether the file has a B."""
    return any(key.endswith((".B", *_OTHERS)) for key in source.tensors)


def read(source: Source, projector: str = "auto") -> Adapter:
    """The adapter with the file's PaRa layers. Raises ValueError for the repository's sparse variant."""
    sparse = next((key for key in source.tensors if key.endswith(_OTHERS)), None)
    if sparse:
        raise ValueError(f"{source.path} has {sparse}: PaRa with a sparse mask is not supported: train it without one.")
    groups, other_tensors = by_layer(source, (".B",))
    chosen = "qr" if projector == "auto" else projector
    layers: dict[str, dict[str, Tensor]] = {}
    for name, group in groups.items():
        Q, right = project(matrix(source, f"{name}.B", group[".B"]), chosen)
        put(layers, name, {"deft_Q": Q} if right is Q else {"deft_Q": Q, "deft_right": right}, source)
    adapter = from_layers(layers, of_omnigen(layers))
    spell(adapter, source, {"deft_Q": ".B", "deft_right": ".B"})
    adapter.update(other_tensors)
    adapter.metadata["projector"] = chosen
    if projector == "auto":
        adapter.metadata["note"] = f"{source.path.name} has no record of its projector: qr is assumed."
    return adapter
