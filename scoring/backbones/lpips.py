"""LPIPS (arXiv 1801.03924) by the optional `lpips` package: its heads come with it, AlexNet's weights are a file."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ..packages import needed_by
from ..preprocessing import Preprocess
from .base import Backbone, BackboneSpec, Settings, WeightFile


class Lpips(Backbone):
    """A distance of two pictures rather than features of one."""

    @torch.no_grad()
    def distance(self, one: Image.Image, other: Image.Image) -> float:
        """LPIPS of two RGB pictures of one size, 0 for equal ones. Raises ValueError for two sizes."""
        from torchvision.transforms.functional import to_tensor

        if one.size != other.size:
            raise ValueError(f"LPIPS compares pictures of one size, these are {one.width} x {one.height} and "
                             f"{other.width} x {other.height}.")
        self.before_use()
        pair = [to_tensor(picture)[None].to(self.place) * 2 - 1 for picture in (one, other)]
        return float(self.module(*pair))


def load(spec: BackboneSpec, settings: Settings, state: dict[str, torch.Tensor], path: Path,
         weights: WeightFile) -> Backbone:
    """LPIPS with AlexNet. Raises MissingPackage without the package, ValueError for weights of another network."""
    with needed_by("LPIPS"):
        from lpips import LPIPS

    module = LPIPS(net="alex", pnet_rand=True, verbose=False)
    own = dict(module.net.named_parameters())
    # The package numbers AlexNet's layers as torchvision does, in five slices: slice2.3.weight is features.3.weight.
    names = {name: "features." + name.split(".", 1)[1] for name in own}
    if wrong := [name for name in names.values() if name not in state]:
        raise ValueError(f"{path} does not hold {spec.name}: {len(wrong)} tensors missing, such as {wrong[0]}.")
    module.net.load_state_dict({name: state[source] for name, source in names.items()})
    return Lpips(spec.name, spec.kind, settings.preprocess, module, fingerprint=weights.sha256,
                 encode_image=module.net, weights=weights)


# LPIPS takes pictures as they are.
AS_THEY_ARE = Preprocess(0, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
