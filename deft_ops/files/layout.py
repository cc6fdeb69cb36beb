"""Helpers of the readers: tensors by layer, layers that must not come twice, and the DEFT repository's formulas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..adapter import Adapter
from ..projectors import project, raw_qr
from .source import Source

# Where R belongs to the signs of singular vectors, which no two routines agree on.
SVD_SIGNS = (
    "The file uses the projector svd and has no stored Q: R depends on signs that the machine which wrote it chose, "
    "and "
    "this machine's may differ."
)

_NO_MODEL = (
    "It was trained on OmniGen (v1), which ComfyUI does not support, and cannot be used on any other model, including "
    "OmniGen2."
)


def by_layer(source: Source, endings: Iterable[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors by the part of their names before one of the endings (".P", ...), and all other tensors of the file."""
    groups: dict[str, dict[str, Tensor]] = {}
    other_tensors: dict[str, Tensor] = {}
    all_endings = tuple(endings)
    for key, tensor in source.tensors.items():
        ending = next((ending for ending in all_endings if key.endswith(ending)), None)
        if ending is None:
            other_tensors[key] = tensor
        else:
            groups.setdefault(key.removesuffix(ending), {})[ending] = tensor
    return groups, other_tensors


def numbers(source: Source, key: str, tensor: Tensor) -> Tensor:
    """The tensor, which has to be of floating numbers. Raises ValueError naming the file and the tensor."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"{source.path} has {key} of {kind}, but floating-point numbers are needed: save it in fp16, bf16 or fp32."
        )
    return tensor


def matrix(source: Source, key: str, tensor: Tensor) -> Tensor:
    """The tensor, which has to be a matrix of floating numbers. Raises ValueError naming the file and the tensor."""
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError(f"{source.path} has {key} of shape {list(tensor.shape)}, but a matrix is needed.")
    return numbers(source, key, tensor)


def lacking(source: Source, key: str, missing: str) -> ValueError:
    """The error of a file that has one tensor of a layer without another that belongs to it."""
    return ValueError(f"{source.path} has {key} without {missing}: save or download it again.")


def spell(adapter: Adapter, source: Source, endings: Mapping[str, str]) -> None:
    """Note the file's own names of the adapter's tensors, by the file's ending for each suffix here."""
    for key in adapter:
        for suffix, ending in endings.items():
            if (
                key.endswith(f".{suffix}")
                and (stored_name := key.removesuffix(f".{suffix}") + ending) in source.tensors
            ):
                adapter.spelled[key] = stored_name


def factors_of_authors(P: Tensor, projector: str) -> tuple[Tensor, Tensor]:
    """The pair (Q, right) of P [out, r] in the DEFT repository's layers; its files hold the R that belongs to this Q.

    Its qr is Q as torch.linalg.qr returns it, computed in float32 and rounded to the dtype of P, as for svd. That Q has
    no positive diagonal beside it: its signs are those of LAPACK's Householder reflections, where each entry of the
    diagonal is against the sign of what was eliminated. The machine that wrote the file is assumed to have them, too.
    """
    if projector not in ("qr", "svd"):
        return project(P, projector)
    Q = raw_qr(P)[0] if projector == "qr" else project(P, projector)[0]
    if P.dtype in (torch.bfloat16, torch.float16):
        Q = Q.to(P.dtype)
    return Q, Q


def gate_weight(source: Source, key: str, gate: Tensor | None) -> Tensor:
    """The weight sigmoid(gate) of the injection in the DEFT repository; 1 without a gate.

    Raises ValueError, naming the file and the tensor, if the gate is not one number.
    """
    if gate is None:
        return torch.tensor(1.0)
    if gate.numel() != 1:
        raise ValueError(f"{source.path} has {key} of shape {list(gate.shape)}, but one number is needed.")
    return torch.sigmoid(gate.float()).reshape(())


def lora_of_authors(
    source: Source, name: str, up: Tensor | None, down: Tensor | None, alpha: float | None, gate: Tensor
) -> dict[str, Tensor]:
    """A layer of the DEFT repository's additive_update: its lora_A [out, r] and lora_B [r, in], gate * alpha / r.

    `alpha` None is the rank. Raises ValueError if one of the two is missing.
    """
    if up is None or down is None:
        there, missing = ("lora_B", "lora_A") if up is None else ("lora_A", "lora_B")
        raise lacking(source, f"{name}.{there}", f"{name}.{missing}")
    up, down = matrix(source, f"{name}.lora_A", up), matrix(source, f"{name}.lora_B", down)
    scaled = gate * (len(down) if alpha is None else alpha)
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": scaled}


def put(layers: dict[str, dict[str, Tensor]], name: str, group: dict[str, Tensor], source: Source) -> None:
    """Add a layer. Raises ValueError if the file has it twice."""
    if name in layers:
        raise ValueError(f"{source.path} has layer {name} twice, under two spellings: remove one of them.")
    layers[name] = group


def of_omnigen(names: Iterable[str]) -> dict[str, str]:
    """Metadata for layers of OmniGen (v1), whose transformer is called llm: the end of the error that nothing fits."""
    return {"if_nothing_fits": _NO_MODEL} if any(name.startswith("llm.") for name in names) else {}
