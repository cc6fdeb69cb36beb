"""Names and tensors of LoRA layers in ComfyUI's, kohya's and diffusers' files.

ComfyUI and kohya's scripts write one LoRA for a fused weight, diffusers one for each part of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.model_base
import comfy.utils
import torch
from torch import Tensor

from ..matching.match import sliced_shape
from ..models.base_weights import Shapes
from ..models.names import Target, clip_names, diffusers_names, model_names, target_function, target_key, target_slice
from ..models.titles import title_of

_Pair = tuple[Tensor, Tensor]  # up [out, r], down [r, in*]

NAMINGS = {
    "comfyui": "ComfyUI's own layer names",
    "kohya": "the names of kohya's sd-scripts, which most programs read",
    "diffusers": "the names of diffusers' pipelines, fused layers split into theirs",
}


@dataclass(frozen=True)
class LayerPair:
    """A pair up [out, r], down [r, in*], float32 on the CPU, of a layer in its own row order; `name` is the file's."""

    name: str
    target: Target
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Written:
    """A LoRA layer to be written: its name without suffix, its component ("" but for diffusers) and module there."""

    name: str
    up: Tensor
    down: Tensor
    shape: tuple[int, ...]
    component: str = ""
    module: str = ""


class Side:
    """A MODEL or a CLIP: all its layer names, those that ComfyUI's own loader reads, the shapes of its weights."""

    def __init__(self, owner: Any, *, clip: bool) -> None:
        self.owner = owner
        self.clip = clip
        self.patcher = owner.patcher if clip else owner
        self.names = clip_names(owner) if clip else model_names(owner)
        self.core: dict[str, Target] = (
            comfy.lora.model_lora_keys_clip(owner.cond_stage_model, {})
            if clip
            else comfy.lora.model_lora_keys_unet(owner.model, {})
        )
        self.shapes = Shapes(self.patcher.model, self.patcher)


# --------------------------------------------------------------------------------------------------- slices of a weight


def overlap(one: Target, other: Target) -> bool:
    """Whether two targets of one weight have entries in common."""
    a, b = target_slice(one), target_slice(other)
    if a is None or b is None or a[0] != b[0]:
        return True
    return a[1] < b[1] + b[2] and b[1] < a[1] + a[2]


def whole_pair(change: LayerPair, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The pair of a change in the rows and columns of its whole weight, of this shape; all others are zero."""
    part, reorder = target_slice(change.target), target_function(change.target)
    up, down = change.up if reorder is None else reorder(change.up), change.down
    if part is None:
        return up, down
    dim, start, length = part
    if dim == 0:
        whole = torch.zeros(shape[0], up.shape[1])
        whole[start : start + length] = up
        return whole, down
    cut = (*shape[1:dim], length, *shape[dim + 1 :])
    columns = torch.zeros(len(down), *shape[1:])
    columns.narrow(dim, start, length).copy_(down.view(len(down), *cut))
    return up, columns.flatten(1)


def piece_pair(up: Tensor, down: Tensor, target: Target, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The part of a whole weight's pair that a target means, in the target's row order."""
    part, reorder = target_slice(target), target_function(target)
    if part is not None and part[0] == 0:
        up = up.narrow(*part)
    elif part is not None:
        down = down.view(len(down), *shape[1:]).narrow(*part).flatten(1)
    return up if reorder is None else reorder(up), down


# ---------------------------------------------------------------------------------------------------------------- names


def named(side: Side, pairs: Mapping[str, list[LayerPair]], naming: str) -> list[Written]:
    """The LoRA layers of a naming. Raises ValueError for weights without a name in it."""
    if naming == "diffusers":
        return list(_diffusers_layers(side, pairs))
    name_of = namer(side, naming)
    result = []
    for key, layer_pairs in pairs.items():
        shape = side.shapes[key]
        result.append(Written(name_of(key), *summed([whole_pair(change, shape) for change in layer_pairs]), shape))
    return result


def vectors(side: Side, changes: Mapping[str, Tensor], naming: str) -> dict[str, Tensor]:
    """The changes of vectors (norms, biases) as `.diff` and `.diff_b`, which ComfyUI's loader adds to them."""
    if changes and naming == "diffusers":
        raise ValueError(
            f"The adapter changes {len(changes)} vectors ({next(iter(changes))}, ...), which a LoRA under diffusers' "
            "names cannot hold: choose comfyui."
        )
    name_of = namer(side, naming)
    result = {}
    for key, value in changes.items():
        layer, _, part = key.rpartition(".")
        end = ".diff_b" if part == "bias" else ".diff"
        result[name_of(f"{layer}.weight" if part == "bias" else key) + end] = value.contiguous()
    return result


def namer(side: Side, naming: str) -> Callable[[str], str]:
    """The function from a weight's key to the name that ComfyUI or kohya's scripts give its LoRA layer."""
    core_names = set(side.core)
    if naming == "comfyui":
        if side.clip:
            return lambda key: f"text_encoders.{key.removesuffix('.weight')}"
        return lambda key: key.removesuffix(".weight")
    if side.clip:
        names = kohya_clip_names(side.core)
    else:
        names = kohya_model_names(side.owner)

    def name_of(key: str) -> str:
        name = names.get(key, "")
        if name not in core_names:
            raise ValueError(f"{key} has no name in kohya's scripts: choose comfyui.")
        return name

    return name_of


def kohya_model_names(model: Any) -> dict[str, str]:
    """The names by key as kohya's sd-scripts write them.

    The original code's paths with underscores for SDXL and for transformers, whose fused layers stay fused; diffusers'
    paths for the UNets of SD 1 and 2.
    """
    keys = [key for key in model.model.state_dict() if key.startswith("diffusion_model.") and key.endswith(".weight")]
    names = {key: key.removeprefix("diffusion_model.").removesuffix(".weight") for key in keys}
    if is_unet(model) and not isinstance(model.model, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner)):
        names |= {target_key(target): path for path, target in diffusers_names(model).items()}
    return {key: f"lora_unet_{name.replace('.', '_')}" for key, name in names.items()}


def kohya_clip_names(core: Mapping[str, Target]) -> dict[str, str]:
    """The names by key as kohya's sd-scripts write them: lora_te_ for a single text encoder, else lora_te1_, ..."""
    single = len({target_key(target).partition(".")[0] for target in core.values()}) == 1
    names_by_key: dict[str, list[str]] = {}
    for name, target in core.items():
        if re.match(r"lora_te\d?_", name):
            names_by_key.setdefault(target_key(target), []).append(name)
    # ComfyUI knows T5 of Flux as number 2 and 3; kohya's scripts write 3. "_" sorts behind the digits.
    return {
        key: max(names) if single else max((name for name in names if name[7] != "_"), default="")
        for key, names in names_by_key.items()
    }


def is_unet(model: Any) -> bool:
    """Whether diffusers has this MODEL as a UNet, and not as a transformer."""
    return bool(comfy.utils.unet_to_diffusers(model.model.model_config.unet_config))


def diffusers_parts(side: Side) -> dict[str, list[tuple[str, str, Target]]]:
    """The mapping key -> (component, module path, target) of diffusers' modules that are the weight or a part of it."""
    if side.clip:
        names = {name: target for name, target in side.core.items() if re.match(r"text_encoder(_\d)?\.", name)}
        modules = [(name.partition(".")[0], name.partition(".")[2], target) for name, target in names.items()]
    else:
        component = "unet" if is_unet(side.owner) else "transformer"
        modules = [(component, path, target) for path, target in diffusers_names(side.owner).items()]
    parts: dict[str, list[tuple[str, str, Target]]] = {}
    for component, path, target in modules:
        key_parts = parts.setdefault(target_key(target), [])
        if not any(overlap(target, other) for _, _, other in key_parts):  # another name of the same
            key_parts.append((component, path, target))
    return parts


def diffusers_name(component: str, path: str) -> str:
    """The layer name in a file.

    UNets: diffusers' older form, because ComfyUI's loader knows attention layers by it only, and diffusers reads both.
    """
    if component != "unet":
        return f"{component}.{path}"
    head, last, tail = path.partition(".to_")
    return f"unet.{head}.processor.to_{tail.removesuffix('.0')}" if last else f"unet.{path}"


def _diffusers_layers(side: Side, pairs: Mapping[str, list[LayerPair]]) -> Iterator[Written]:
    table = diffusers_parts(side)
    for key, layer_pairs in pairs.items():
        shape, parts = side.shapes[key], table.get(key, [])
        pieces: dict[int, list[_Pair]] = {}  # by the number of the part
        for change in layer_pairs:
            same = [number for number, part in enumerate(parts) if _same_place(part[2], change.target)]
            if same:
                pieces.setdefault(same[0], []).append((change.up, change.down))
                continue
            up, down = whole_pair(change, shape)
            rest_up, rest_down = up.clone(), down.clone()
            for number, (_, _, target) in enumerate(parts):
                if not overlap(target, change.target):
                    continue
                piece = piece_pair(up, down, target, shape)
                _erase(rest_up, rest_down, target, shape)
                if piece[0].any() and piece[1].any():
                    pieces.setdefault(number, []).append(piece)
            if rest_up.any() and rest_down.any():
                what = "text encoders" if side.clip else title_of(side.owner.model)
                raise ValueError(f"{key} has no name in diffusers' {what}: choose comfyui.")
        for number, some in pieces.items():
            component, path, target = parts[number]
            part_shape = sliced_shape(shape, target)
            yield Written(diffusers_name(component, path), *summed(some), part_shape, component, path)


def summed(pairs: Sequence[_Pair]) -> _Pair:
    """The pair whose product is the sum of the pairs' products."""
    return torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs], 0)


def _same_place(one: Target, other: Target) -> bool:
    return target_slice(one) == target_slice(other) and target_function(one) == target_function(other)


def _erase(up: Tensor, down: Tensor, target: Target, shape: tuple[int, ...]) -> None:
    part = target_slice(target)
    if part is None:
        up.zero_()
    elif part[0] == 0:
        up.narrow(*part).zero_()
    else:
        down.view(len(down), *shape[1:]).narrow(*part).zero_()


def tensors_of(layer: Written, up: Tensor, down: Tensor, naming: str) -> dict[str, Tensor]:
    """A layer's file entries; those of a convolution [out, in, ...] are [out, r, 1, ...] and [r, in, ...]."""
    kernel = layer.shape[2:]
    up = up.reshape(*up.shape, *(1 for _ in kernel)).contiguous()
    down = down.reshape(len(down), *layer.shape[1:]).contiguous()
    if naming != "diffusers":
        rank = torch.tensor(float(len(down)))
        return {f"{layer.name}.lora_up.weight": up, f"{layer.name}.lora_down.weight": down, f"{layer.name}.alpha": rank}
    if layer.component != "unet":
        return {f"{layer.name}.lora_A.weight": down, f"{layer.name}.lora_B.weight": up}
    stem = f"{layer.name}_lora" if ".processor." in layer.name else f"{layer.name}.lora"
    return {f"{stem}.down.weight": down, f"{stem}.up.weight": up}


def peft_record(written: list[Written], ranks: list[int]) -> dict[str, Any]:
    """The header record of diffusers' save_lora_weights: PEFT's LoraConfig by component, alpha = rank."""
    record: dict[str, Any] = {}
    for component in sorted({layer.component for layer in written}):
        # transformers before 5 has "text_model." in front, after it not; PEFT takes the end of a name, too.
        modules = {
            layer.module.removeprefix("text_model."): rank
            for layer, rank in zip(written, ranks, strict=True)
            if layer.component == component
        }
        counts = Counter(modules.values())
        usual = max(counts, key=lambda rank: (counts[rank], rank))
        start = "" if component.startswith("text_encoder") else "^"
        pattern = {f"{start}{re.escape(name)}": rank for name, rank in modules.items() if rank != usual}
        config = {
            "peft_type": "LORA",
            "r": usual,
            "lora_alpha": usual,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": peft_targets(modules),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_dora": False,
            "use_rslora": False,
        }
        record |= {f"{component}.{name}": value for name, value in config.items()}
    return record


def peft_targets(modules: Iterable[str]) -> list[str] | str:
    """PEFT's target_modules: full names, which PEFT takes as endings, or a regular expression if a name has no dot."""
    names = sorted(modules)
    return names if all("." in name for name in names) else "|".join(map(re.escape, names))
