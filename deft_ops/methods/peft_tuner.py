"""A layer that PEFT itself computes: W' is what PEFT's own layer, with the file's tensors, merges into W.

PEFT is imported when the first change is computed. It computes on the CPU in float32, in a model of this layer alone;
what the layers of a file share is among the layer's tensors. Which tensors there have to be, and of which sizes, is
checked before (`files/peft_tensors.py`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..host import on_host
from .common import svd
from .contract import Method

NAME = "peft"
SUFFIXES: tuple[str, ...] = ()

_PARTS = ("weight", "bias", "difference")
# What PEFT raises for fields and tensors that it does not expect.
_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ImportError,
    ArithmeticError,
    AssertionError,
)
_LAYER = "layer"
_LARGEST = "largest"
_BIAS = "/bias"  # the base's own, among the tensors where a change of the weight depends on it


@dataclass(frozen=True)
class Factors:
    """One layer's adapter.

    record: JSON, the peft_type and the fields of PEFT's configuration for this layer.
    names, tensors: the layer's tensors by their names there; a name that begins with "/" is of the model, not the
        layer. For a "difference" one tensor, the change itself.
    shape: of the weight, as PEFT's layer has it.
    largest: [outputs, inputs] of the largest layers of the file, where PEFT draws what they share by it.
    part: which of _PARTS is changed. has_bias: whether the layer has a bias.
    """

    record: str
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    shape: tuple[int, ...]
    largest: tuple[int, ...] = ()
    part: str = "weight"
    has_bias: bool = False


def claims(suffixes: Collection[str]) -> bool:
    """Return False: the file's record determines the tensors of a layer (see `matching/peft_tuners.py`)."""
    return False


def rank(tensors: Mapping[str, Tensor]) -> int:
    """The largest dimension of a matrix's smaller side, which is the rank in most tuners."""
    return max((min(tensor.shape) for tensor in tensors.values() if tensor.ndim == 2), default=1)


def fits(factors: Factors, shape: tuple[int, ...]) -> bool:
    """Whether the adapter is for a weight, or a bias, of this shape."""
    if factors.part == "weight":
        return len(shape) > 1 and shape[0] == factors.shape[0] and _count(shape) == _count(factors.shape)
    return tuple(shape) == factors.shape[:1]


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def delta(
    factors: Factors, weight: Tensor, *, strength: float = 1.0, removal: float = 1.0, injection: float = 1.0
) -> Tensor:
    """The change of a weight [out, in, ...] or a bias times the strength, of the same shape, float32.

    `removal` and `injection` are not used. Raises ValueError if PEFT cannot compute it.
    """
    if factors.part == "difference":
        return factors.tensors[0].to(device=weight.device, dtype=torch.float32) * strength
    with torch.inference_mode(False), torch.no_grad():
        base = weight.detach().to(device="cpu", dtype=torch.float32, copy=True)
        new: Tensor
        if factors.part == "weight":
            tensors = dict(zip(factors.names, factors.tensors, strict=True))
            bias = tensors[_BIAS].detach().to("cpu", copy=True) if _BIAS in tensors else None
            new = merged(factors, base.reshape(factors.shape).clone(), bias)[0]
        else:
            # PEFT's bias does not depend on the weight here: else it is given as a difference.
            new = merged(factors, torch.zeros(factors.shape), base.clone())[1]
        change = (new.reshape(base.shape) - base).mul_(strength)
    return change.to(weight.device)


def to_lora(factors: Factors, weight: Tensor, *, removal: float = 1.0, injection: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exact LoRA form at strength 1, of full rank k = min(out, in*): the SVD of the change."""
    U, sigma, Vh = on_host(svd, delta(factors, weight).flatten(1))
    return U * sigma, Vh


def to_tensors(factors: Factors) -> dict[str, Tensor]:
    """The layer's tensors, by PEFT's names."""
    return {name: tensor.detach().contiguous() for name, tensor in zip(factors.names, factors.tensors, strict=True)}


def from_tensors(tensors: Mapping[str, Tensor]) -> Factors:
    """No factors: raises ValueError, because the record is needed, too."""
    raise ValueError("layers that PEFT computes need the record of their file")


# ----------------------------------------------------------------------------------------------------- PEFT's own layer


def merged(factors: Factors, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight and bias that PEFT merges, of a weight and bias (float32, CPU) that are changed in place.

    A bias that is not given is zeros. Raises ValueError if PEFT cannot compute it.
    """
    record: dict[str, Any] = json.loads(factors.record)
    kind = record.pop("peft_type")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            with _without_compiling(kind):
                layer = _layer(kind, record, factors, weight, bias)
                layer.merge()
        except _FAILURES as error:
            reason = " ".join(str(error).split())
            where = f"{kind} for a weight of {list(factors.shape)}"
            raise ValueError(f"PEFT could not compute {where}: {reason}") from error
        base = layer.get_base_layer()
        result = base.weight.detach(), weight if base.bias is None else base.bias.detach()
    if not all(torch.isfinite(tensor).all() for tensor in result):
        raise ValueError(f"PEFT computes a NaN or infinity from {kind} for a weight of {list(factors.shape)}")
    return result


def _layer(kind: str, record: dict[str, Any], factors: Factors, weight: Tensor, bias: Tensor | None) -> Any:
    """PEFT's layer around the weight, with the file's tensors in it."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    # TinyLoRA decomposes the weight for tensors that the file has: without values that takes no time.
    empty = kind == "TINYLORA"
    root = nn.Module()
    setattr(root, _LAYER, _module(weight.to("meta") if empty else weight, bias, factors.has_bias))
    targets = [_LAYER]
    if factors.largest:
        setattr(root, _LARGEST, _module(torch.zeros(()).expand(factors.largest), None, False))
        targets.append(_LARGEST)
    configurations: Any = PEFT_TYPE_TO_CONFIG_MAPPING  # its keys are strings, too
    chosen = _targets(kind, record, targets)
    config = configurations[kind](**record, **chosen, inference_mode=True)
    model = peft.PeftModel(root, config, low_cpu_mem_usage=empty).eval()
    layer = getattr(model.base_model.model, _LAYER)
    if empty:
        layer.get_base_layer().weight = nn.Parameter(weight, requires_grad=False)
    tensors = {
        f"base_model.{name[1:]}" if name.startswith("/") else f"base_model.model.{_LAYER}.{name}": tensor
        for name, tensor in zip(factors.names, _plain(factors.tensors), strict=True)
        if name != _BIAS
    }
    result = peft.set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=empty)
    if result.unexpected_keys:
        raise ValueError(f"it has no {', '.join(result.unexpected_keys[:3])}")
    if kind == "FROD":
        # U belongs to the shared V, which is the file's now.
        V = layer.frod_V["default"]
        layer.frod_U["default"] = layer._calculate_frod_u_and_lambda(V, layer.get_base_layer().weight)[0]
    return layer


def _plain(tensors: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """The tensors on the CPU, numbers in float32, and no inference tensors."""
    for tensor in tensors:
        plain = tensor.detach().cpu()
        plain = plain.float() if plain.is_floating_point() else plain
        yield plain.clone() if plain.is_inference() else plain


def _module(weight: Tensor, bias: Tensor | None, has_bias: bool) -> nn.Module:
    """The bare layer of a weight."""
    with torch.device("meta"):
        if weight.ndim == 2:
            module: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
        else:
            convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[weight.ndim]
            module = convolution(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=has_bias)
    module.weight = nn.Parameter(weight, requires_grad=False)
    if has_bias:
        module.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias, requires_grad=False)
    return module


def _targets(kind: str, record: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    """The fields that name the changed layers. They are names of our own, so that no pattern of a file is matched."""
    if record.pop("is_parameter", False):
        return {"target_modules": [], "target_parameters": [f"{_LAYER}.weight"]}
    if kind == "IA3":
        return {"target_modules": targets, "feedforward_modules": targets if record.pop("feedforward", False) else []}
    if kind == "ADALORA":
        kept = record.pop("kept", None)
        pattern = None if kept is None else {f"{_LAYER}.lora_E": kept}
        return {"target_modules": targets, "rank_pattern": pattern, "total_step": 1, "target_r": 1}
    blocks = record.pop("blocks", None)
    if blocks:
        sides = {f"target_modules_bd_{side}": targets if record.pop(f"blocks_{side}") else [] for side in "ab"}
        return {"target_modules": targets, "use_bdlora": {**sides, "nblocks": blocks, "match_strict": False}}
    return {"target_modules": targets}


class _BlockDiagonal:
    """A replacement in PyTorch for the operation that PEFT compiles for BOFT."""

    def forward(self, blocks: Tensor) -> tuple[Tensor]:
        """The blocks [n, d, k, k] as n matrices with d blocks on their diagonals."""
        return (torch.stack([torch.block_diag(*matrices) for matrices in blocks]),)


@contextmanager
def _without_compiling(kind: str) -> Iterator[None]:
    """A context without the CUDA extension that BOFT's layers would build, or else drop all but one of the factors."""
    if kind != "BOFT":
        yield
        return
    from peft.tuners.boft import layer

    original = layer.get_fbd_cuda
    layer.get_fbd_cuda = _BlockDiagonal
    try:
        yield
    finally:
        layer.get_fbd_cuda = original


METHOD = Method(
    name=NAME,
    title="PEFT",
    source="huggingface.co/docs/peft",
    suffixes=SUFFIXES,
    claims=claims,
    Factors=Factors,
    from_tensors=from_tensors,
    to_tensors=to_tensors,
    rank=rank,
    fits=fits,
    delta=delta,
    to_lora=to_lora,
    any_dtype=True,
    peft="it was read from such a folder",
)
