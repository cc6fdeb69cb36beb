"""The exact LoRA form of an adapter for one base model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..deft_ops import adapter as adapters
from ..deft_ops import methods
from .names import Target, clip_names, model_names, target_function, target_key, target_slice

Pair = tuple[Tensor, Tensor]


def to_lora(adapter: adapters.Adapter, model: Any, clip: Any = None) -> adapters.Adapter:
    """The adapter as a plain LoRA under ComfyUI's own layer names, exact for this MODEL (and CLIP).

    up = Q, down = s R - right^T W; layers that mean slices of one fused weight become one LoRA of their summed rank.
    LoRA layers are carried over. The result holds for this base only: W is part of it.

    Raises:
        ValueError: the base is already patched or quantised, or a layer of the adapter is not in it.
    """
    pairs: dict[str, list[Pair]] = {}
    missing = []
    sources = [(model_names(model), model)] + ([(clip_names(clip), clip.patcher)] if clip is not None else [])
    weights = [patcher.model.state_dict() for _, patcher in sources]
    for name, group in adapters.layers(adapter).items():
        for (names, patcher), state in zip(sources, weights, strict=True):
            if name in names:
                key = target_key(names[name])
                check_base(key, patcher, state[key])
                method = methods.method_of(group)
                pairs.setdefault(key, []).append(
                    layer_pair(method, method.from_tensors(group), names[name], state[key])
                )
                break
        else:
            missing.append(name)
    if missing:
        raise ValueError(
            f"{len(missing)} layers of the adapter are not in the base ({', '.join(missing[:3])}): "
            "connect the model (and CLIP) that the adapter was trained on."
        )
    result = adapters.Adapter(adapters.foreign(adapter), {"base_model": type(model.model).__name__})
    for key, found in pairs.items():
        up = torch.cat([pair[0] for pair in found], dim=1)
        name = key.removesuffix(".weight")
        name = name if name.startswith("diffusion_model.") else f"text_encoders.{name}"
        result[f"{name}.lora_up.weight"] = up.contiguous()
        result[f"{name}.lora_down.weight"] = torch.cat([pair[1] for pair in found], dim=0).contiguous()
        result[f"{name}.alpha"] = torch.tensor(float(up.shape[1]))
    return result


def check_base(key: str, patcher: Any, weight: Tensor) -> None:
    """Refuse a base whose weight is not the plain one: the export would hold for something else."""
    if patcher.patches.get(key):
        raise ValueError(f"The model is already patched at {key}: connect it before any adapter or LoRA is applied.")
    if not weight.is_floating_point() or weight.element_size() < 2 or type(weight) not in (Tensor, torch.nn.Parameter):
        raise ValueError(f"{key} is quantised ({weight.dtype}): load the base in fp16, bf16 or fp32 to export a LoRA.")


def layer_pair(method: Any, factors: Any, target: Target, weight: Tensor) -> Pair:
    """up [out, r] and down [r, in*] of one layer on the CPU, in the rows of its whole weight."""
    part = target_slice(target)
    piece = weight if part is None else weight.narrow(*part)
    reorder = target_function(target)
    piece = piece.detach().float().cpu()
    up, down = method.to_lora(factors, piece if reorder is None else reorder(piece))
    if reorder is not None:
        up = reorder(up)
    if part is not None:
        if part[0] != 0:
            raise ValueError(
                f"{target_key(target)} is fused along its inputs, which a LoRA of the whole weight cannot "
                "hold: use the adapter itself."
            )
        whole = torch.zeros(weight.shape[0], up.shape[1])
        whole[part[1] : part[1] + part[2]] = up
        up = whole
    return up.cpu(), down.cpu()
