"""What diffusers calls the layers of each architecture: one module each.

A module has MODELS, the names of ComfyUI's classes (comfy.model_base) that it is for (subclasses are meant too), and
`layers(base, paths)`: the table for such a model, given the paths of the modules of ComfyUI's network. A table may name
layers that this model lacks. By name, because not every version of ComfyUI has every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..targets import Target
from . import auraflow, flux, hunyuan_dit, ltx, lumina2, pixart, same, sd3, unet, wan, z_image

ARCHITECTURES: tuple[ModuleType, ...] = (
    unet,
    sd3,
    flux,
    pixart,
    auraflow,
    hunyuan_dit,
    lumina2,
    z_image,
    wan,
    ltx,
    same,
)


def table_of(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The table of a model (an object of comfy.model_base); empty for an unknown architecture."""
    for kind in type(base).__mro__:
        known = [module for module in ARCHITECTURES if kind.__name__ in module.MODELS]
        if known:
            return {name: target for module in known for name, target in module.layers(base, paths).items()}
    return {}
