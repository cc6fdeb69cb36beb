"""The memory that a run will need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..step import activation_bytes, looking, memory
from ..step.attention import pytorch_attention
from ..step.network import computing_in

if TYPE_CHECKING:
    from .trainer import Trainer


def needs_of(trainer: Trainer) -> memory.Needs:
    """The memory that the run will need in any mode of checkpointing, by a forward pass of its largest example.

    Raises:
        ValueError: the base gives no number for it.
    """
    example = max(trainer.dataset.examples, key=lambda item: item.latent.numel())
    settings, shape = trainer.settings, tuple(example.latent.shape)

    def run() -> Tensor:
        sigma = trainer.model.model.model_sampling.sigma_max.reshape(1).to(trainer.device)
        conds = [trainer.captions.conds(example.caption, shape, example.origin)]
        return trainer.loss([example], torch.zeros(shape, device=trainer.device), sigma, conds)

    adapted = {layer.module for layer in trainer.layers.values()}
    with pytorch_attention(), computing_in(trainer.model.model, trainer.precision.compute):
        loss, shown = activation_bytes.measure(trainer.root, run, adapted, trainer.dataset.text is not None)
        if not torch.isfinite(loss):
            raise ValueError(looking.explain(trainer.root, trainer.precision.name))
    adapter = memory.adapter_bytes(trainer.parameters, settings.optimizer, bool(settings.ema)) + sum(
        value.numel() * value.element_size() for value in trainer.decompositions.tensors()
    )
    batch = min(settings.batch_size, len(trainer.dataset.examples))
    return memory.Needs(trainer.model.model_size(), adapter, batch, shown)
