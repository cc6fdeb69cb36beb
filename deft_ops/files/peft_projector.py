"""The projector of a DEFT file of PEFT that has no record of it, from the base that it was trained on.

PEFT starts with R = right^T W / s, where right is Q (qr) or relu(P) (relu, its default), and training moves P and R
away from there. As long as R is nearer to one of the two than chance and than to the other one, that one is it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..projectors import raw_qr

# A layer's weight [out, in, ...] by its name in the file; None for a name that means no weight.
WeightOf = Callable[[str], Tensor | None]

# As many layers are looked at; the rows of R of each are a case of their own.
LAYERS = 12
# The mean cosine of R's rows with those of right^T W: chance is some hundredths, an untrained file has 1. The wrong
# projector's is about 0.7 of the right one's: relu(P) is half P and half |P|.
NEAREST = 0.3
RATIO = 1.2


def projector_of(layers: Mapping[str, tuple[Tensor, Tensor]], base: WeightOf) -> str | None:
    """The projector, qr or relu, of the (P, R) of layers by name; None where the base does not show it."""
    cosines: dict[str, list[Tensor]] = {"qr": [], "relu": []}
    for name in _some(list(layers)):
        P, R = (tensor.detach().float() for tensor in layers[name])
        weight = base(name)
        if weight is None or P.ndim != 2 or R.ndim != 2:
            continue
        matrix = weight.detach().to("cpu", torch.float32).flatten(1)
        if matrix.shape != (P.shape[0], R.shape[1]) or P.shape[1] != R.shape[0] or P.shape[1] > P.shape[0]:
            continue
        for kind, right in (("qr", raw_qr(P)[0]), ("relu", torch.relu(P))):
            cosine = torch.nn.functional.cosine_similarity(right.T @ matrix, R, dim=1)
            # A column of Q changes its sign when training takes an entry of P through zero.
            cosines[kind].append(cosine.abs() if kind == "qr" else cosine)
    if not cosines["qr"]:
        return None
    means = {kind: torch.cat(rows).mean().item() for kind, rows in cosines.items()}
    best, other = sorted(means, key=lambda kind: means[kind], reverse=True)
    return best if means[best] > NEAREST and means[best] > RATIO * means[other] else None


def _some(names: list[str]) -> list[str]:
    """Some of the names, LAYERS at most, from all parts of the file."""
    step = max(1, len(names) // LAYERS)
    return names[::step][:LAYERS]
