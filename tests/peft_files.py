"""PEFT's image benchmark in the demo's size: files like its own, and its line with the demo's model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from deft_pack.sweeps.ready.peft_benchmark import PLANNED

ROOT = Path(__file__).resolve().parent.parent
PLAN = ROOT / "sweeps" / "plans" / "peft_benchmark.yaml"
WORKFLOW = ROOT / "example_workflows" / "api" / "sweep_flux2_klein.json"
PROMPTS = "peft_benchmark_prompts.csv"
# Not PEFT's own words.
CAPTIONS = [f"a sks teddy bear on a {color} background" for color in ("red", "blue", "green", "yellow", "grey")]
DRIFT = ["a blue ball"]
SIDE = 64


def peft_files(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Five photos, of which two are for training, one for validation and two for the test, and the parameters."""
    photos, parameters = folder / "photos", folder / "default_training_params.json"
    photos.mkdir(parents=True)
    for place, file in enumerate(sorted((ROOT / "demo" / "subjects" / "teddy_bear").glob("*.png"))):
        shutil.copy(file, photos / f"{place:02}.png")
    given = PLANNED | {"resolution": SIDE, "valid_size": 1, "test_size": 2}
    given |= {"instance_prompts": CAPTIONS, "drift_image_prompts": DRIFT}
    parameters.write_text(json.dumps({name: value for name, value in (given | changes).items() if value is not ...}))
    return photos, parameters


def small(prompt: dict[str, Any]) -> dict[str, Any]:
    """The line with the demo's model, 64 px, two steps of training and of sampling."""
    classes = {
        "UNETLoader": ("UNETLoader", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}),
        "CLIPLoader": ("DEFTDemoTextEncoder", {}),
        "VAELoader": ("VAELoader", {"vae_name": "deft_demo_vae.safetensors"}),
    }
    changed: dict[str, dict[str, Any]] = {
        "EmptyFlux2LatentImage": {"width": SIDE, "height": SIDE},
        "Flux2Scheduler": {"width": SIDE, "height": SIDE, "steps": 2},
        "DEFTPrepareTrainingPictures": {"size": SIDE},
        "DEFTTrainAdapter": {"steps": 2},
        "DEFTTrainingSettings": {"checkpoint_every": 2},
    }
    for node in prompt.values():
        kind = node["class_type"]
        if kind in classes:
            node["class_type"], node["inputs"] = classes[kind]
        node["inputs"] |= changed.get(kind, {})
        if kind == "EmptyFlux2LatentImage":
            node["class_type"] = "EmptySD3LatentImage"
    return prompt
