"""The nodes, one file a category."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from ..patches.core_training import register_core_training
from ..patches.weight_adapter import register
from . import (
    adapters,
    checkpoints,
    comparison,
    demo,
    dreambench,
    extraction,
    folders,
    hooks,
    info,
    prompts,
    saving,
    scorers,
    scoring,
    stack,
    tables,
    textual_inversion,
    training,
    training_pictures,
    training_settings,
)
from .nothing import guard
from .replaced import register_replaced
from .routes import register_routes

_MODULES = (
    adapters,
    stack,
    hooks,
    info,
    saving,
    extraction,
    training_pictures,
    training,
    training_settings,
    textual_inversion,
    prompts,
    folders,
    dreambench,
    scorers,
    scoring,
    tables,
    comparison,
    checkpoints,
    demo,
)
NODES: list[type[io.ComfyNode]] = [node for module in _MODULES for node in module.NODES]
for _node in NODES:
    guard(_node)


class DEFTExtension(ComfyExtension):
    """What ComfyUI asks for the nodes of the pack."""

    async def on_load(self) -> None:
        """Register the methods with ComfyUI's loaders and trainer; also the demo's models, former nodes and routes."""
        register()
        register_core_training()
        demo.register_models()
        await register_replaced()
        register_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All node classes."""
        return NODES
