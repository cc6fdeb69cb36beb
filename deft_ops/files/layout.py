"""What the readers share: tensors by layer, and layers that must not come twice."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from .source import Source

_NO_MODEL = (
    "It was trained on OmniGen (v1), which ComfyUI has no model of, and cannot be used on any other model, OmniGen2 "
    "included."
)


def by_layer(source: Source, endings: Iterable[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors by what stands before one of the endings (".P", ...), and the rest of the file."""
    groups: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    known = tuple(endings)
    for key, tensor in source.tensors.items():
        ending = next((ending for ending in known if key.endswith(ending)), None)
        if ending is None:
            rest[key] = tensor
        else:
            groups.setdefault(key.removesuffix(ending), {})[ending] = tensor
    return groups, rest


def matrix(source: Source, key: str, tensor: Tensor) -> Tensor:
    """The tensor, which has to be a matrix [out, rank]. Raises ValueError naming the file and the tensor."""
    if tensor.ndim != 2:
        raise ValueError(f"{source.path} has {key} of shape {list(tensor.shape)}, but a matrix is needed.")
    return tensor


def put(found: dict[str, dict[str, Tensor]], name: str, group: dict[str, Tensor], source: Source) -> None:
    """Add a layer. Raises ValueError if the file has it twice."""
    if name in found:
        raise ValueError(f"{source.path} has layer {name} twice, under two spellings: remove one of them.")
    found[name] = group


def of_omnigen(names: Iterable[str]) -> dict[str, str]:
    """Metadata for layers of OmniGen (v1), whose transformer is called llm: the end of the error that nothing fits."""
    return {"if_nothing_fits": _NO_MODEL} if any(name.startswith("llm.") for name in names) else {}
