"""Prompts that score pictures, and the files that they need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file


def make_files(base: Path) -> None:
    """Pictures in ComfyUI's input folder, and small random scorers where the demo's would be found first."""
    from open_clip.model import CLIP
    from timm.models.vision_transformer import VisionTransformer

    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(base / "input" / f"score{index}.png")
    Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(base / "input" / "wide.png")
    folder = base / "models" / "scorers"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    clip = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "layers": 1, "width": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 514, "width": 64, "heads": 2, "layers": 1},
    }
    dino = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 0}
    (folder / "merges.txt").write_text("#version: 0.2\n")
    preprocess = {"resize": 64, "crop": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
    for name, module, own in (
        ("clip", CLIP(**clip), {"open_clip": clip, "merges": "merges.txt"}),
        ("dino", VisionTransformer(**dino), {"timm": dino}),
    ):
        save_file(module.state_dict(), folder / f"deft_demo_{name}.safetensors")
        (folder / f"deft_demo_{name}.json").write_text(json.dumps(own | {"preprocess": preprocess}))


def images(*names: str) -> dict:
    """LoadImage nodes, and batches of them."""
    prompt = {f"load {name}": {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}} for name in names}
    batch = {f"images.image{i}": [f"load {name}", 0] for i, name in enumerate(names)}
    return prompt | {"batch": {"class_type": "BatchImagesNode", "inputs": batch}}


def scoring(text: str = "a dog", **inputs) -> dict:
    """A prompt that scores two pictures against two others."""
    prompt = images("score0", "score1", "score2", "score3")
    for name, start in (("generated", 0), ("real", 2)):
        prompt[name] = {
            "class_type": "ImageFromBatch",
            "inputs": {"image": ["batch", 0], "batch_index": start, "length": 2},
        }
    return prompt | {
        "scorer": {"class_type": "DEFTLoadScorer", "inputs": {"protocol": "demo"} | inputs.pop("scorer", {})},
        "score": {
            "class_type": "DEFTScoreImages",
            "inputs": {
                "scorer": ["scorer", 0],
                "images": ["generated", 0],
                "references": ["real", 0],
                "text": text,
                "label": "DEFT r4",
                "subject": "dog",
            }
            | inputs,
        },
    }
