"""LPIPS (arXiv 1801.03924) by the optional `lpips` package: its heads come with it, AlexNet's weights are a file."""

from __future__ import annotations

from pathlib import Path

import torch

from ..packages import needed_by
from ..preprocessing import Preprocess
from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """LPIPS with AlexNet, which reads two pictures.

    Raises MissingPackage without the package, ValueError for weights of another network.
    """
    with needed_by("LPIPS"):
        from lpips import LPIPS

    module = LPIPS(net="alex", pnet_rand=True, verbose=False)
    parameters = dict(module.net.named_parameters())
    # The package numbers AlexNet's layers as torchvision does, in five slices: slice2.3.weight is features.3.weight.
    names = {name: "features." + name.split(".", 1)[1] for name in parameters}
    if wrong := [name for name in names.values() if name not in state]:
        raise ValueError(f"{path} does not hold {spec.name}: {len(wrong)} tensors missing, such as {wrong[0]}.")
    module.net.load_state_dict({name: state[source] for name, source in names.items()})
    return Backbone.of(spec, settings, module, weights, encode_image=None)


# LPIPS takes pictures as they are.
AS_THEY_ARE = Preprocess(0, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
