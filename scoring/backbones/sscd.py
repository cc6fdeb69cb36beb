"""SSCD (arXiv 2202.10261): a ResNet-50 of torchvision's whose last map is pooled by its third power (GeM)."""

from __future__ import annotations

from pathlib import Path

import torch

from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile, load_state

POWER = 3.0
FLOOR = 1e-6


class PowerPool(torch.nn.Module):
    """Generalised mean over the map: [n, c, h, w] -> [n, c, 1, 1]."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(mean of x^p)^(1/p)."""
        return maps.clamp(min=FLOOR).pow(POWER).mean(dim=(2, 3), keepdim=True).pow(1 / POWER)


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """The network from the authors' file in torchvision's form (`.torchvision.pt`).

    Raises ValueError for a file of another model.
    """
    from torchvision.models import get_model

    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    size = len(state["fc.weight"]) if "fc.weight" in state else 512
    module = get_model(str(settings.architecture), weights=None, num_classes=size)
    module.avgpool = PowerPool()
    load_state(module, state, path, spec.name)
    return Backbone.of(spec, settings, module, weights)
