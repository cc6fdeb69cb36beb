"""The subgraph blueprints' nodes in a real ComfyUI, joined to the demo's loaders."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest

from deft_pack.workflow_sources.blueprints import Blueprint, blueprints, sent
from deft_pack.workflow_sources.demo import CLIP, MODEL, VAE, DemoExample

# What an input on top is joined to, and the results that are looked at.
JOINED = {
    "model": MODEL,
    "clip": CLIP,
    "vae": VAE,
    "latent": ["10", 0],
    "scorer": ["11", 0],
    "references": ["4", 0],
}
CHANGED = {"size": 64, "steps": 2, "name": "blueprints/subject"}


def joined(blueprint: Blueprint, **changed: Any) -> dict[str, Any]:
    """The workflow that the page sends, with these values in the promoted widgets where it has them."""
    it = DemoExample("blueprints")
    it.photos()
    it.sampling()
    it.scorer()
    prompt = copy.deepcopy(sent(blueprint))
    top = blueprint.packing
    for name, places in top.inputs.items():
        for node, slot in places:
            prompt[f"{top.node}:{node}"]["inputs"][slot] = JOINED[name]
    for name, value in changed.items():
        if name in top.promoted:
            node, widget = top.promoted[name]
            prompt[f"{top.node}:{node}"]["inputs"][widget] = value
    return {**it, **prompt}


@pytest.mark.parametrize("blueprint", blueprints(), ids=lambda one: one.name)
def test_it_runs(comfyui: Any, blueprint: Blueprint) -> None:
    top = blueprint.packing
    results = {name: (f"{top.node}:{node}", slot) for name, (node, slot) in top.outputs.items()}
    try:
        run = comfyui.run(joined(blueprint, **CHANGED), want=sorted({node for node, _ in results.values()}))
        given = {name: run.outputs[node][slot] for name, (node, slot) in results.items()}
    finally:
        shutil.rmtree(comfyui.base / "models" / "loras" / "blueprints", ignore_errors=True)
        shutil.rmtree(comfyui.base / "user" / "deft_nodes" / "latents", ignore_errors=True)
    if "adapter" in given:
        assert "blueprints/subject_00001_.safetensors" in given["file"][0].replace("\\", "/")
        assert given["adapter"][0]
        assert given["model"][0].patches
        assert given["report"][0].startswith("5 of 5 files")
    else:
        assert given["report"][0]
        assert given["scores"][0]
