"""The names of layers in diffusers, one module for each architecture.

A module has MODELS, the names of ComfyUI's classes (comfy.model_base) that it is for (subclasses are meant too), and
`layers(base, paths)`: the table for such a model, given the paths of the modules of ComfyUI's network. A table may name
layers that this model lacks. `spellings(base, paths)`, if a module has it, is a table of the names that other programs
write and diffusers does not. By name, because not every version of ComfyUI has every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..targets import Target
from . import (
    ace_step,
    auraflow,
    cosmos,
    flux,
    hunyuan_dit,
    hunyuan_video,
    ideogram4,
    ltx,
    lumina2,
    minimax_h3,
    pixart,
    same,
    sd3,
    unet,
    wan,
    z_image,
)

ARCHITECTURES: tuple[ModuleType, ...] = (
    unet,
    sd3,
    flux,
    pixart,
    auraflow,
    hunyuan_dit,
    hunyuan_video,
    lumina2,
    z_image,
    wan,
    ltx,
    cosmos,
    ideogram4,
    minimax_h3,
    ace_step,
    same,
)


def table_of(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The table of a model (an object of comfy.model_base); empty for an unknown architecture."""
    return {name: target for module in _modules(base) for name, target in module.layers(base, paths).items()}


def spellings_of(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The names of other programs for a model, as in a table."""
    modules = [module for module in _modules(base) if hasattr(module, "spellings")]
    return {name: target for module in modules for name, target in module.spellings(base, paths).items()}


def _modules(base: Any) -> list[ModuleType]:
    """The modules for a model's class, or for the nearest of its base classes that has one."""
    for kind in type(base).__mro__:
        modules = [module for module in ARCHITECTURES if kind.__name__ in module.MODELS]
        if modules:
            return modules
    return []
