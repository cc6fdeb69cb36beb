"""Adapters that PEFT itself computes, laid over a model: weights and biases, with what PEFT needs for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..deft_ops.files import peft_tensors, peft_tuners
from ..deft_ops.files.peft_tuners import TunerPart
from ..deft_ops.methods import peft_tuner
from ..deft_ops.methods.peft_tuner import Factors
from ..models.names import Target, bias_target, target_function, target_key, target_slice

# Tuners that PEFT has for convolutions, too.
_CONVOLUTIONS = ("ADALORA", "BOFT", "HIRA", "HRA", "IA3", "LORA")
# What all layers share, drawn by the largest of them where the file does not have it.
_BY_LARGEST = {"VERA": ("vera_A", "vera_B"), "PVERA": ("pvera_A", "pvera_B"), "RANDLORA": ("randlora_A", "randlora_B")}


@dataclass
class Laid:
    """The layers that an adapter has for a model: (name, target, factors).

    `keys` are the tensors that only PEFT can compute with, `used` those of them that the layers are made of. `misfits`
    name the layers that do not fit their weight, and `misfit_keys` are their tensors.
    """

    layers: list[tuple[str, Target, Factors]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    misfits: list[str] = field(default_factory=list)
    misfit_keys: set[str] = field(default_factory=set)


def lay(adapter: Mapping[str, Tensor], names: Mapping[str, Target], shapes: Any) -> Laid:
    """Lay an adapter over a model with these layer names, and these shapes (base_weights.Shapes) of its weights.

    An adapter without a record of PEFT has no such layers. Raises ValueError for a record that cannot be read.
    """
    laid = Laid()
    for part in peft_tuners.parts_of(adapter) or []:
        places = {name: names[name] for name in part.layers if name in names}
        largest = _largest(part, places, shapes)
        groups = _groups(part)
        keys = {name: {peft_tuners.key_of(name, ending) for ending in group} for name, group in part.layers.items()}
        laid.keys |= set(part.shared).union(*keys.values())
        fitting: dict[str, list[tuple[Target, Factors]]] = {}
        reasons: dict[str, Any] = {}
        for name, target in places.items():
            try:
                fitting[name] = list(_factors(part, name, target, shapes, largest, groups))
            except peft_tensors.UNUSABLE as error:
                reasons[name] = error
        for name, reason in _failures(part.kind, fitting).items():
            reasons[name] = reason
            del fitting[name]
        for name, reason in reasons.items():
            laid.misfits.append(f"{name} ({part.kind.lower()} does not fit: {reason})")
            laid.misfit_keys |= keys[name]
        for name, changes in fitting.items():
            laid.layers += [(name, place, factors) for place, factors in changes]
            laid.used |= keys[name]
        if places:
            laid.used |= set(part.shared)
    return laid


def _failures(kind: str, fitting: Mapping[str, list[tuple[Target, Factors]]]) -> dict[str, Exception]:
    """The layers that PEFT cannot compute, with its error: tried on the smallest layer of each record.

    ComfyUI patches later, where an error would only be logged. AdaMSS depends on the values of the weight.
    """
    groups: dict[tuple[str, int, tuple[int, ...]], list[str]] = {}
    for name, changes in fitting.items():
        factors = changes[0][1]
        dims = tuple(tensor.ndim for tensor in factors.tensors)
        groups.setdefault((factors.record, len(factors.shape), dims), []).append(name)
    failed: dict[str, Exception] = {}
    for names in groups.values():
        if kind == "ADAMSS":
            continue
        factors = min((fitting[name][0][1] for name in names), key=lambda one: torch.Size(one.shape).numel())
        try:
            with torch.inference_mode(False), torch.no_grad():
                weight = torch.randn(factors.shape, generator=torch.Generator().manual_seed(0))
                peft_tuner.merged(factors, weight, None)
        except ValueError as error:
            failed |= dict.fromkeys(names, error)
    return failed


def _shape_of(target: Target, shapes: Any) -> tuple[int, ...] | None:
    """The shape of a weight or of a slice of it, None if there is no such weight."""
    shape = shapes.get(target_key(target))
    part = target_slice(target)
    if shape is None or part is None:
        return shape
    return tuple(part[2] if dim == part[0] else size for dim, size in enumerate(shape))


def _factors(
    part: TunerPart, name: str, target: Target, shapes: Any, largest: tuple[int, ...] | None, groups: dict[str, str]
) -> Iterator[tuple[Target, Factors]]:
    """The factors for a layer's weight, and for its bias if PEFT changes that. Raises ValueError if they do not fit."""
    group, record, kind = part.layers[name], part.record_of(name), part.kind
    whole = _shape_of(target, shapes)
    if whole is None or len(whole) < 2:
        raise ValueError(f"the weight is {None if whole is None else list(whole)}, but a matrix is needed")
    shape = _layer_shape(kind, group, whole)
    place = bias_target(target)
    bias = _shape_of(place, shapes)
    has_bias = bias is not None
    size = {"out": shape[0], "inputs": torch.Size(shape[1:]).numel()}
    peft_tensors.check_names(kind, record, group, bias=has_bias)
    peft_tensors.check_sizes(kind, record, group, part.shared, **size, bias=has_bias)
    ones = [1] * (len(shape) - 2)
    scales = {
        "boft_s": [shape[0], 1] if len(shape) == 2 else [1, shape[0]],
        "lora_magnitude_vector": [shape[0]] if len(shape) == 2 else [1, shape[0], *ones],
    }
    for ending, needed in scales.items():
        if ending in group and list(group[ending].shape) != needed:
            raise ValueError(f"{ending} has shape {list(group[ending].shape)}, but {needed} is needed")
    if kind in _BY_LARGEST and largest is None:
        raise ValueError(
            "what its layers share is not in the file and depends on the largest of them, and not all are in this model"
        )
    tensors = {**group, **_shared(part, name, groups)}
    tensors.pop("lora_velora_embed", None)  # of the training's gradients
    record = _fields(kind, record, group, shape)
    factors = Factors(
        json.dumps({"peft_type": kind, **record}),
        tuple(tensors),
        tuple(tensors.values()),
        shape,
        _turned(largest or (), shape) if kind == "RANDLORA" else largest or (),
        "weight",
        has_bias and kind in ("ADAMSS", "GLORA"),  # whose tensors depend on it
    )
    if kind == "ADAMSS" and has_bias:
        # The bias is a column of what is decomposed; what it becomes depends on the weight.
        values = _values(shapes, place)
        yield target, replace(factors, names=(*factors.names, "/bias"), tensors=(*factors.tensors, values))
        yield place, _difference(factors, shapes, target, place)
    elif kind == "GLORA" and has_bias and record["config_C"] in ("lora", "vector"):
        yield target, factors
        yield place, _difference(factors, shapes, target, place)
    else:
        if kind != "BEFT":
            yield target, factors
        if _changes_bias(kind, record, group):
            if not has_bias:
                if kind in ("BEFT", "LORA"):
                    raise ValueError("it changes a bias, and this layer has none")
                return
            yield place, replace(factors, part="bias", has_bias=True)


def _layer_shape(kind: str, group: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that PEFT's layer has: the model's, but a matrix and a 1 x 1 convolution may be each other."""
    tensor = next((group[name] for name in ("lora_A.weight", "hira_A", "ia3_l") if name in group), None)
    dims = tensor.ndim if tensor is not None else (len(shape) if kind in _CONVOLUTIONS else 2)
    if dims == len(shape):
        return shape
    if dims == 2 and torch.Size(shape[2:]).numel() == 1:
        return shape[:2]
    if len(shape) == 2 and dims in (3, 4, 5):
        return (*shape, *[1] * (dims - 2))
    raise ValueError(f"PEFT has no {kind} for convolutions, and this weight is {list(shape)}")


def _fields(kind: str, record: dict[str, Any], group: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, Any]:
    """The configuration of one layer alone."""
    record = dict(record)
    if kind == "OSF":
        low = len(group["osf_svd_params.S_low"])
        rank = min(shape) - low
        if rank < 1:
            raise ValueError(f"osf_svd_params.S_low has {low} values, but this weight has {min(shape)}")
        return {"effective_rank": rank}
    if kind == "WAVEFT":
        record |= {"n_frequency": group["waveft_spectrum"].numel(), "proportional_parameters": False}
    elif kind == "IA3" and group["ia3_l"].ndim == 2 and shape[:2] != (1, 1):
        record["feedforward"] = group["ia3_l"].shape[0] == 1
    elif kind == "FROD":
        record["progressbar"] = False
    elif kind == "ADAMSS":
        record["init_weights"] = "orthogonal"
    elif kind == "TINYLORA":
        record["weight_tying"] = 1.0  # there is one layer, with the vector that is its own
    elif kind == "LORA":
        record.pop("velora_config", None)
        # Other starts leave the base as it is, and the tensors take their place.
        start = str(record.get("init_lora_weights")).lower()
        record["init_lora_weights"] = start if start in ("pissa", "olora") else True
    return record


def _changes_bias(kind: str, record: Mapping[str, Any], group: Mapping[str, Tensor]) -> bool:
    if kind == "LORA":
        return bool(record.get("lora_bias"))
    if kind == "IA3":
        return not record.get("feedforward")
    return kind in ("BEFT", "GLORA", "ROAD")


# --------------------------------------------------------------------------------------- what is not of one layer alone


def _largest(part: TunerPart, places: Mapping[str, Target], shapes: Any) -> tuple[int, ...] | None:
    """The size [outputs, inputs] of the largest layers, from shared tensors or all layers; None if one is not known."""
    if part.kind not in _BY_LARGEST:
        return ()
    inputs, outputs = (part.shared.get(name) for name in _BY_LARGEST[part.kind])
    if inputs is not None and outputs is not None and part.record.get("save_projection", True):
        return len(outputs), inputs.shape[-1]
    layer_shapes = [_shape_of(target, shapes) for target in places.values()]
    if len(places) < len(part.layers) or any(shape is None or len(shape) < 2 for shape in layer_shapes):
        return None
    return max(shape[0] for shape in layer_shapes if shape), max(shape[1] for shape in layer_shapes if shape)


def _turned(largest: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The size [outputs, inputs] of RandLoRA's largest layers; its tensors show only the larger and the smaller one."""
    larger, smaller = max(largest), min(largest)
    return (larger, smaller) if shape[0] <= larger and shape[1] <= smaller else (smaller, larger)


def _shared(part: TunerPart, name: str, groups: Mapping[str, str]) -> dict[str, Tensor]:
    """The shared tensors that a layer uses, under the names of a model of this layer alone."""
    if part.kind == "TINYLORA":
        key = f"tinylora_v.{groups.get(name, '')}"
        if key not in part.shared:
            raise ValueError(f"the file does not say which of its {len(part.shared)} vectors is this layer's")
        if part.shared[key].shape != (part.record["u"],):
            raise ValueError(f"{key} has shape {list(part.shared[key].shape)}, but [{part.record['u']}] is needed")
        return {"/tinylora_v.0": part.shared[key]}
    if part.kind == "FROD":
        category = _category(name)
        tensors = {}
        for kind in ("frod_V", "frod_s_indices", "frod_s_size"):
            if f"{kind}.{category}" not in part.shared:
                raise ValueError(f"the file has no {kind}.{category}")
            tensors[f"/{kind}.layer"] = part.shared[f"{kind}.{category}"]
        _check_frod(part.layers[name], *tensors.values())
        return tensors
    if part.record.get("save_projection", True) is False:
        return {}
    return {f"/{key}": tensor for key, tensor in part.shared.items()}


def _category(name: str) -> str:
    """The role of a layer, by the end of its module path as in PEFT: layers of one role share a projection of FRoD."""
    parts = name.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    if parts[-3:] == ["attention", "output", "dense"]:
        return "attention_output"
    return f"{parts[-2]}_{parts[-1]}"


def _check_frod(group: Mapping[str, Tensor], V: Tensor, places: Tensor, size: Tensor) -> None:
    width, count = group["frod_lambda_l"].numel(), group["frod_lambda_s_values"].numel()
    if list(V.shape) != [width, width] or list(places.shape) != [2, count] or size.tolist() != [width, width]:
        raise ValueError(f"its projections are not for {width} inputs and {count} values")
    if count and not 0 <= int(places.double().min()) <= int(places.double().max()) < width:  # fp8 has no smallest one
        raise ValueError(f"frod_s_indices has indices up to {int(places.double().max())}, but there are {width}")


def _groups(part: TunerPart) -> dict[str, str]:
    """The number of each layer's vector in TinyLoRA: by the layers' order, which their projections' seed shows."""
    if part.kind != "TINYLORA":
        return {}
    count, seed, tying = len(part.layers), part.record["projection_seed"], part.record["weight_tying"]
    if not isinstance(seed, int) or not isinstance(tying, (int, float)) or not 0 <= tying <= 1:
        return {}
    if tying == 1:
        return dict.fromkeys(part.layers, "0")
    groups = max(1, round(count * (1.0 - tying)))
    size = max(1, count // groups)
    projections: dict[tuple[int, ...], list[Tensor]] = {}
    places: dict[str, int] = {}
    for name, group in part.layers.items():
        P = group.get("tinylora_P")
        if P is None or P.ndim != 3 or P.shape[1] < 1 or not P.numel():
            continue
        if tuple(P.shape) not in projections:
            projections[tuple(P.shape)] = [_projection(seed + index, P) for index in range(count)]
        rounding = 1e-5 if P.dtype == torch.float32 else 1e-2
        drawn = [torch.allclose(one, P.float(), rtol=rounding, atol=rounding) for one in projections[tuple(P.shape)]]
        if sum(drawn) == 1:
            places[name] = drawn.index(True)
    return {name: str(min(place // size, groups - 1)) for name, place in places.items()}


def _projection(seed: int, like: Tensor) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.normal(mean=0.0, std=like.shape[1] ** -0.5, size=tuple(like.shape), generator=source)


# ------------------------------------------------------------------------------------------ biases that need the weight


def _values(shapes: Any, target: Target) -> Tensor:
    """The base's values of a target, float32 on the CPU."""
    values: Tensor = shapes.weight(target_key(target)).cpu()
    part, reorder = target_slice(target), target_function(target)
    values = values if part is None else values.narrow(*part)
    return (values if reorder is None else reorder(values)).contiguous()


def _difference(factors: Factors, shapes: Any, target: Target, place: Target) -> Factors:
    """The change of a bias that depends on its weight, computed from the base's."""
    with torch.inference_mode(False), torch.no_grad():
        weight, bias = (_values(shapes, each).clone() for each in (target, place))
        new = peft_tuner.merged(factors, weight.reshape(factors.shape), bias.clone())[1]
        change = new - bias
    return Factors("{}", ("change",), (change,), factors.shape, (), "difference", True)
