"""Nodes of earlier releases and what took their place, so that saved workflows go on working.

ComfyUI replaces a node only where no node has its id any more. So a node whose inputs or outputs have to change gets a
new id, and its old one an entry here and in CHANGELOG.md. scripts/make_interface.py holds this against interface.json.
"""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyAPI, io

REPLACED: list[io.NodeReplace] = []


async def register_replaced() -> None:
    """Register the replacements at ComfyUI."""
    api = ComfyAPI()
    for replacement in REPLACED:
        await api.node_replacement.register(replacement)
