"""Helpers for the tables of the architectures.

A table has for each module path of the diffusers model the module of ComfyUI's network: a path, or a target
with a path in place of the key. Paths have no "diffusion_model." before and no ".weight" behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .targets import Target, target_key, with_key

WEIGHT = ".weight"


def from_comfyui(table: Mapping[str, Target]) -> dict[str, Target]:
    """A table of modules, from one of ComfyUI's own tables of tensors."""
    return {
        name.removesuffix(WEIGHT): with_key(target, target_key(target).removesuffix(WEIGHT))
        for name, target in table.items()
        if name.endswith(WEIGHT)
    }


def indices(paths: Iterable[str], folder: str) -> list[int]:
    """The numbers that stand behind "<folder>." in the paths, each once, in order."""
    start = f"{folder}."
    return sorted({int(path[len(start) :].split(".")[0]) for path in paths if path.startswith(start)})


def parts(path: str, sizes: Mapping[str, int]) -> dict[str, Target]:
    """Slices of a fused weight along its rows, by name, in the order in which they lie there."""
    slices: dict[str, Target] = {}
    start = 0
    for name, size in sizes.items():
        slices[name] = (path, (0, start, size))
        start += size
    return slices


def within(prefix: str, block: Mapping[str, Target], path: str | None = None) -> dict[str, Target]:
    """The table of a block as it stands below `prefix` in diffusers and below `path` in ComfyUI (default: the same)."""
    below = prefix if path is None else path
    return {f"{prefix}.{name}": with_key(target, f"{below}.{target_key(target)}") for name, target in block.items()}
