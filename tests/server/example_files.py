"""The examples: which there are, which need files that the tests do not have, and how they are made short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deft_pack.sweeps.training_nodes import TRAINERS

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = ROOT / "example_workflows"
UI_FILES = sorted(WORKFLOWS.glob("*.json"))
API_FILES = sorted((WORKFLOWS / "api").glob("*.json"))
SHORT_STEPS = 2  # of trainings and samplings; a test looks at whether a workflow runs, not at what it learns
# Class -> the input that is made small. Previews and checkpoints come at every step, as some examples need several.
SHORTENED = {
    **dict.fromkeys((*TRAINERS, "KSampler"), ("steps", SHORT_STEPS)),
    "DEFTTrainingPreviews": ("every", 1),
    "DEFTTrainingSettings": ("checkpoint_every", 1),
}
# Files of gigabytes and folders of photos. The examples that name them run in tests/comfy/test_reference.py and
# test_tables.py, with small models and the demo's pictures instead.
NOT_HERE = {
    "omnigen2_fp16.safetensors",
    "qwen_2.5_vl_fp16.safetensors",
    "ae.safetensors",
    "v1-5-pruned-emaonly-fp16.safetensors",
    "sd_xl_base_1.0.safetensors",
    "flux1-dev.safetensors",
    "clip_l.safetensors",
    "t5xxl_fp16.safetensors",
    "flux-2-klein-base-4b.safetensors",
    "flux2-vae.safetensors",
    "qwen_3_4b.safetensors",
    "z_image_bf16.safetensors",
    "qwen_image_fp8_e4m3fn.safetensors",
    "qwen_2.5_vl_7b_fp8_scaled.safetensors",
    "qwen_image_vae.safetensors",
    "clip-vit-base-patch32.safetensors",
    "dino_deitsmall16_pretrain.safetensors",
    "dino_deitsmall8_pretrain.safetensors",
    "dinov2-small.safetensors",
    *(f"dreambooth/{name}" for name in ("bear_plushie", "cat", "dog8")),
    *(f"dreambench_plus/live_subject_animal_{name}" for name in ("00_kitten", "01_stork", "02_kitten", "03_horse")),
    *(f"dreambench_plus/captions/live_subject/animal/{number}.txt" for number in ("00", "01", "02", "03")),
}


def own_id(node_id: Any) -> str:
    """A node's id in an API file, of the one that the page sends: 40 of "20:40", for node 40 inside node 20."""
    return str(node_id).rpartition(":")[2]


def with_own_ids(prompt: dict[str, Any]) -> dict[str, Any]:
    """What the page sends, with the ids that an API file has."""

    def value(given: Any) -> Any:
        return [own_id(given[0]), *given[1:]] if isinstance(given, list) and len(given) == 2 else given

    return {
        own_id(node_id): {**node, "inputs": {name: value(given) for name, given in node["inputs"].items()}}
        for node_id, node in prompt.items()
    }


def missing_files(path: Path) -> set[str]:
    """The files of NOT_HERE that an example names."""
    nodes = json.loads((WORKFLOWS / "api" / path.name).read_text()).values()
    return {value for node in nodes for value in node["inputs"].values() if isinstance(value, str)} & NOT_HERE


COMPLETE = [path for path in API_FILES + UI_FILES if not missing_files(path)]
INCOMPLETE = [path for path in API_FILES if missing_files(path)]


def with_few_steps(workflow: dict[str, Any]) -> dict[str, Any]:
    """Either format of a workflow with short trainings and samplings."""
    if "nodes" in workflow:
        for graph in [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]:
            for node in graph["nodes"]:
                names = []
                for socket in node["inputs"]:
                    if "widget" in socket:
                        names.append(socket["widget"]["name"])
                        if socket["name"].endswith("seed"):
                            names.append("control_after_generate")
                # Those on top of a subgraph are those of a node inside.
                on_top = graph is workflow and "-" in node["type"]
                for name, most in set(SHORTENED.values()) if on_top else [SHORTENED.get(node["type"], ("", 0))]:
                    if name in names:
                        assert len(names) == len(node["widgets_values"]), (names, node["widgets_values"])
                        place = names.index(name)
                        node["widgets_values"][place] = min(node["widgets_values"][place], most)
        return workflow
    for node in workflow.values():
        name, most = SHORTENED.get(node["class_type"], ("", 0))
        if name in node["inputs"]:
            node["inputs"][name] = min(node["inputs"][name], most)
    return workflow
