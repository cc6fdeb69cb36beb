"""Custom nodes for ComfyUI: train, load, apply and score DEFT, PaRa and LoRA adapters of image models.

ComfyUI imports this file at start-up; everything else is loaded when ComfyUI asks for the nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import DEFTExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> DEFTExtension:
    """Return the extension with all nodes; called once by ComfyUI's loader."""
    from .nodes import DEFTExtension

    return DEFTExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
