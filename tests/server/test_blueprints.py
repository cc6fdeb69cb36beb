"""The subgraph blueprints: ComfyUI lists them, and the page adds each as one node that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deft_pack.workflow_sources.blueprints import blueprints
from deft_pack.workflow_sources.demo import MODEL, DemoExample

NAMES = [one.name for one in blueprints()]
LOADERS = {"model": ["1", 0], "clip": ["2", 0], "vae": ["3", 0]}
SHOWN = {"report": ["90", "source"]}
TRAINED = {"links": LOADERS, "shown": SHOWN, "set": {"size": 64, "steps": 2, "name": "test/blueprint"}}
OPTIONS = {
    "DEFT Train a subject with LoRA": TRAINED,
    "DEFT Train a subject with DEFT": TRAINED,
    "DEFT Use and score": {
        "links": LOADERS | {"latent": ["10", 0], "scorer": ["11", 0], "references": ["4", 0]},
        "shown": SHOWN,
        "set": {"steps": 2, "prompts": "a sks teddy bear\na sks teddy bear on a red background"},
    },
    "DEFT Score a folder": {"links": {"scorer": ["11", 0]}, "shown": SHOWN, "set": {"label": "mine"}},
}
RESULTS = {
    "DEFT Train a subject with LoRA": "5 of 5 files",
    "DEFT Train a subject with DEFT": "5 of 5 files",
    "DEFT Use and score": "CLIP-I",
    "DEFT Score a folder": "mine",
}


def test_comfyui_lists_them(server: Any) -> None:
    listed = {
        entry["name"]: (key, entry)
        for key, entry in server.get("/global_subgraphs").items()
        if entry["info"]["node_pack"] == f"custom_nodes.{server.pack_name}"
    }
    assert sorted(listed) == sorted(NAMES)
    for one in blueprints():
        key, entry = listed[one.name]
        assert entry["source"] == "custom_node"
        assert server.get(f"/global_subgraphs/{key}")["data"] == one.path.read_text(encoding="utf-8")


@pytest.mark.timeout(600)
def test_each_runs_from_the_page(drive_browser: Any, tmp_path: Path) -> None:
    """Added by the search box, joined to the demo's loaders, run with other values in the promoted widgets."""
    it = DemoExample("blueprints")
    it.photos()
    it.sampling()
    it.scorer()
    it.show_text(90, "Report", MODEL)
    source = tmp_path / "loaders.json"
    source.write_text(json.dumps(it))
    seen = drive_browser("blueprint", source, json.dumps(OPTIONS), *NAMES)
    for one, page in zip(blueprints(), seen, strict=True):
        assert "failed" not in page, page
        assert page["errors"] == []
        assert page["complaints"] == []
        assert page["end"]["kind"] == "execution_success"
        top, packing = page["top"], one.packing
        assert top["title"] == one.name
        assert top["inputs"] == [*packing.inputs, *packing.promoted]
        assert top["outputs"] == list(packing.outputs)
        given = {name: one.prompt[str(node)]["inputs"][widget] for name, (node, widget) in packing.promoted.items()}
        assert top["widgets"] == given
        for name, value in OPTIONS[one.name]["set"].items():  # what the page sends is what stands on top
            node, widget = packing.promoted[name]
            kind = one.prompt[str(node)]["class_type"]
            sent = [each["inputs"] for each in page["api"].values() if each["class_type"] == kind]
            assert value in [inputs[widget] for inputs in sent], (name, sent)
        assert RESULTS[one.name] in json.dumps(page["outputs"]["90"]), page["outputs"]
