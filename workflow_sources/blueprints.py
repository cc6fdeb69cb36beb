"""The pack's subgraph blueprints: what each puts into one node. The page lists them among its nodes by their names.

A blueprint is copied into the user's workflow, so that later versions of it do not reach that one.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .demo import DEFT_FILE, DEMO_METHODS
from .packing import Packing, named, pack
from .prompt import APPLY, ROOT, PromptBuilder
from .text import graph_text

SUBGRAPHS = ROOT / "subgraphs"
TOP = 100  # the id of the node on top


@dataclass(frozen=True)
class Blueprint:
    """A blueprint: the nodes inside in API form, without what comes from outside, and what is on top."""

    prompt: PromptBuilder
    packing: Packing

    @property
    def name(self) -> str:
        """The name of the file, which is the title in the page."""
        return self.packing.title

    @property
    def path(self) -> Path:
        """The file."""
        return SUBGRAPHS / f"{self.name}.json"


def training(method: str, learning_rate: float) -> Blueprint:
    """A folder of photos to a MODEL with the adapter. method: one of the demo's."""
    it = PromptBuilder()
    pictures = it.add(
        1,
        "DEFTPrepareTrainingPictures",
        "Pictures of the subject",
        {
            "folder": "demo/teddy_bear",
            "default_caption": "a photo of [trigger]",
            "trigger_word": "sks",
            "size": 0,
            "crop": "middle",
            "flips": False,
        },
    )
    adapter = it.add(
        2,
        "DEFTTrainAdapter",
        "Train the adapter",
        {
            "latents": pictures,
            "positive": ["1", 1],
            "captions": ["1", 2],
            **DEMO_METHODS[method],
            "method.rank": 16,
            "steps": 800,
            "learning_rate": learning_rate,
            "batch_size": 1,
            "layers": "attention",
            "pattern": "",
            "seed": 1,
            "precision": "auto",
            "gradient_checkpointing": True,
        },
    )
    it.add(
        3,
        "DEFTSaveAdapter",
        "Save the adapter",
        {
            "adapter": adapter,
            "filename_prefix": "my_subject",
            "format": "native (.safetensors)",
            "place": "models/loras",
        },
    )
    it.add(4, "DEFTApplyAdapter", "Apply the adapter", {"adapter": adapter, **APPLY})
    return Blueprint(
        it,
        Packing(
            node=TOP,
            title=f"DEFT Train a subject with {method}",
            nodes=(1, 2, 3, 4),
            inputs={
                "model": [(1, "model"), (2, "model"), (3, "model"), (4, "model")],
                "clip": [(1, "clip")],
                "vae": [(1, "vae")],
            },
            promoted={
                "folder": (1, "folder"),
                "trigger_word": (1, "trigger_word"),
                "size": (1, "size"),
                "name": (3, "filename_prefix"),
                "steps": (2, "steps"),
            },
            outputs={"model": (4, 0), "file": (3, 0), "adapter": (2, 0), "report": (1, 3)},
            category="DEFT/training",
            description="Trains an adapter on a folder of pictures and gives the model with it. The adapter is saved "
            "to models/loras under its name.",
        ),
    )


def use_and_score() -> Blueprint:
    """An adapter file on a MODEL, a picture for each prompt, their scores."""
    it = PromptBuilder()
    model = it.add(
        1,
        "DEFTAdapterLoader",
        "Load the adapter",
        {"file": DEFT_FILE, "strength_model": 1.0, "strength_clip": 1.0, "projector": "auto"},
    )
    prompts = it.add(
        2, "DEFTPrompts", "Prompts to draw", {"prompts": "a sks teddy bear on a red background", "token": "sks"}
    )
    positive = it.add(3, "CLIPTextEncode", "Encode the prompts", {"text": prompts})
    negative = it.add(4, "CLIPTextEncode", "Empty prompt", {"text": ""})
    latent = it.add(
        5,
        "KSampler",
        "Sample",
        {
            "model": model,
            "positive": positive,
            "negative": negative,
            "seed": 7,
            "steps": 20,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    )
    images = it.add(6, "VAEDecode", "Decode", {"samples": latent})
    it.add(
        7,
        "DEFTScoreImages",
        "Score the pictures",
        {"images": images, "text": ["2", 1], "label": "adapter", "subject": ""},
    )
    return Blueprint(
        it,
        Packing(
            node=TOP,
            title="DEFT Use and score",
            nodes=tuple(range(1, 8)),
            inputs={
                "model": [(1, "model")],
                "clip": [(3, "clip"), (4, "clip")],
                "vae": [(6, "vae")],
                "latent": [(5, "latent_image")],
                "scorer": [(7, "scorer")],
                "references": [(7, "references")],
            },
            promoted={
                "file": (1, "file"),
                "strength": (1, "strength_model"),
                "prompts": (2, "prompts"),
                "token": (2, "token"),
                "steps": (5, "steps"),
                "cfg": (5, "cfg"),
                "label": (7, "label"),
            },
            outputs={"images": (6, 0), "scores": (7, 0), "report": (7, 5)},
            texts=("prompts",),
            category="DEFT/scoring",
            description="Puts an adapter on the model, draws a picture for each prompt and scores it against pictures "
            "of the subject. The scorer comes from Load Scorer, the size from an empty latent.",
        ),
    )


def score_a_folder() -> Blueprint:
    """The pictures of a folder against those of another."""
    it = PromptBuilder()
    pictures = it.add(1, "DEFTLoadFolder", "Pictures to score", {"folder": "demo/teddy_bear_deft"})
    references = it.add(2, "DEFTLoadFolder", "Pictures of the subject", {"folder": "demo/teddy_bear_lora"})
    scores = it.add(
        3,
        "DEFTScoreImages",
        "Score the pictures",
        {"images": pictures, "references": references, "text": ["1", 1], "label": "folder", "subject": ""},
    )
    it.add(
        4,
        "DEFTScoreTable",
        "Table of scores",
        {"scores.scores0": scores, "title": "Scores of a folder", "filename_prefix": "scores/folder"},
    )
    return Blueprint(
        it,
        Packing(
            node=TOP,
            title="DEFT Score a folder",
            nodes=(1, 2, 3, 4),
            inputs={"scorer": [(3, "scorer")]},
            promoted={
                "folder": (1, "folder"),
                "references": (2, "folder"),
                "label": (3, "label"),
                "title": (4, "title"),
                "file": (4, "filename_prefix"),
            },
            outputs={"scores": (3, 0), "table": (4, 0), "report": (3, 5)},
            category="DEFT/scoring",
            description="Scores the pictures of a folder, with their captions, against those of another one with the "
            "subject's pictures, and writes a table. The scorer comes from Load Scorer.",
        ),
    )


def blueprints() -> list[Blueprint]:
    """All blueprints."""
    return [training("LoRA", 1e-4), training("DEFT", 1e-4), use_and_score(), score_a_folder()]


def graph_of(blueprint: Blueprint) -> dict[str, Any]:
    """The file as it is on disk; without nodes where there is none yet."""
    graph: dict[str, Any] = {"nodes": [], "links": []}
    return json.loads(blueprint.path.read_text(encoding="utf-8")) if blueprint.path.is_file() else graph


def sent(blueprint: Blueprint) -> dict[str, Any]:
    """The API form with the ids that the page sends."""
    return named(blueprint.prompt, [blueprint.packing])


def packed(graph: dict[str, Any], blueprint: Blueprint) -> str:
    """The text of a graph of the nodes inside, as the page has written it, with all of them in one node."""
    pack(graph, blueprint.packing)
    (top,) = graph["nodes"]
    top["pos"] = [100, 100]
    return graph_text(
        {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"deft-nodes blueprint {blueprint.name}")),
            "revision": 0,
            "last_node_id": TOP,
            "last_link_id": 0,
            "nodes": [top],
            "links": [],
            "groups": [],
            "config": {},
            "extra": {"BlueprintDescription": blueprint.packing.description},
            "version": 0.4,
            "definitions": graph["definitions"],
        }
    )


def repacked(graph: dict[str, Any], blueprint: Blueprint) -> str:
    """The text of a blueprint's file, made again of the nodes that are in it."""
    inner: list[dict[str, Any]] = graph["definitions"]["subgraphs"][0]["nodes"]
    links = [
        [link["id"], link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"], link["type"]]
        for link in graph["definitions"]["subgraphs"][0]["links"]
        if link["origin_id"] > 0 and link["target_id"] > 0
    ]
    return packed({"nodes": inner, "links": links}, blueprint)
