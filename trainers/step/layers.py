"""The layers that are trained, with their new parameters, and what had to be left or cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...deft_ops.layer_ops import op_of
from ...models.layers import is_linear_or_convolution
from ...models.stored import weight_of
from ..settings.settings import Settings
from ..settings.targets import choice_of, rank_of, rank_rules, select
from . import looking, memory
from .decompositions import Decompositions


@dataclass
class TrainedLayer:
    """One trained layer: its module, where that computes, the trainable tensors, and what its method keeps of the base
    (None for most methods).
    """

    module: nn.Module
    device: torch.device
    params: dict[str, Tensor]
    kept: Any = None
    factors: Any = None


@dataclass
class Notes:
    """Notes for the report. zeros: trained layers of zeros. cut: ranks that are lower than asked for, because the layer
    has no more. unfit: chosen layers that cannot have an adapter. otherwise: what else a method did otherwise than
    asked for, with the layers.
    """

    zeros: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    otherwise: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The notes as lines for the report."""
        texts = []
        if self.cut:
            name, rank = next(iter(self.cut.items()))
            texts.append(
                f"the rank was reduced at {len(self.cut)} layers whose sides are smaller (to {rank} at {name})"
            )
        for words, names in self.otherwise.items():
            texts.append(f"{len(names)} layers have {words}: {', '.join(names[:5])}")
        if self.unfit:
            texts.append(f"{len(self.unfit)} chosen convolutions cannot have an adapter: {', '.join(self.unfit[:5])}")
        if self.zeros:
            texts.append(f"{len(self.zeros)} trained layers are zero in the base: {', '.join(self.zeros[:5])}")
        return texts


def choose(root: nn.Module, settings: Settings, text: bool = False) -> dict[str, nn.Module]:
    """The layers of a network by path that the settings choose; of text encoders their attention, or everything.

    Raises:
        ValueError: what targets.select raises.
    """
    tables = settings.training.tables
    if text:
        return select(root, settings.layers if choice_of(settings.layers).small else "attention", tables=tables)
    return select(root, settings.layers, settings.pattern, settings.exclude, settings.blocks, tables)


def fitting(chosen: Mapping[str, nn.Module], notes: Notes) -> dict[str, nn.Module]:
    """The layers that an adapter can be on: not convolutions of several groups or with padding of other than zeros.

    Raises:
        ValueError: there is none.
    """
    kept: dict[str, nn.Module] = {}
    reason: ValueError | None = None
    for name, module in chosen.items():
        try:
            if is_linear_or_convolution(module):
                op_of(module)
            kept[name] = module
        except ValueError as error:
            notes.unfit.append(name)
            reason = error
    if reason is not None and not kept:
        raise reason
    return kept


def make_layers(
    chosen: Mapping[str, nn.Module],
    settings: Settings,
    device: torch.device,
    generator: torch.Generator,
    decompositions: Decompositions,
    notes: Notes,
    prefix: str = "",
) -> dict[str, TrainedLayer]:
    """The layers with new parameters on the device. `prefix` names their decompositions.

    Raises:
        ValueError: no room in memory, no layer that fits, a weight with a NaN or infinity.
    """
    training, method_settings = settings.training, settings.own
    memory.check_free(device, chosen.values(), settings)
    dtype = torch.bfloat16 if settings.adapter_precision == "bf16" else torch.float32
    rules = rank_rules(settings.ranks)
    layers = {}
    for name, module in fitting(chosen, notes).items():
        kept = None
        with weight_of(module, torch.empty(0, device=device)) as weight:
            if looking.check(name, weight):
                notes.zeros.append(name)
            rank = rank_of(name, settings.rank, rules, training.largest_rank(len(weight), method_settings))
            params = training.init(weight, rank, method_settings, generator)
            if training.base is not None:
                kept = decompositions.of(f"{prefix}{name}", weight, training.base)
        bias = getattr(module, "bias", None)
        if training.init_bias is not None and bias is not None:
            params |= training.init_bias(bias.to(device))
        if training.given_rank is not None and (given_rank := training.given_rank(params)) < rank:
            notes.cut[name] = given_rank
        if words := training.otherwise(params, method_settings):
            notes.otherwise.setdefault(words, []).append(name)
        if dtype != torch.float32:
            params = {key: value.detach().to(dtype).requires_grad_() for key, value in params.items()}
        layers[name] = TrainedLayer(module, device, params, kept)
    return layers
