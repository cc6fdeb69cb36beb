"""The nodes, one file a category."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from ..patches.weight_adapter import register
from . import adapters, comparison, demo, hooks, info, prompts, saving, scoring, training

_MODULES = (adapters, hooks, info, saving, training, prompts, scoring, comparison, demo)
NODES: list[type[io.ComfyNode]] = [node for module in _MODULES for node in module.NODES]


class DEFTExtension(ComfyExtension):
    """What ComfyUI asks for the nodes of the pack."""

    async def on_load(self) -> None:
        """Tell ComfyUI's own loaders of the native format and of the demo's models."""
        register()
        demo.register_models()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All node classes."""
        return NODES
