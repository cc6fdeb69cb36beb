"""The prompts of faults.py, all of the demo's model: pictures, trainings and what becomes of them, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FaultPrompt = dict[str, Any]
_SETTINGS = "example_workflows/api/train_with_previews.json"
CHECKPOINT_EVERY = 4  # steps between the checkpoints of a training


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt; __ in a name stands for a dot."""
    return {"class_type": class_type, "inputs": {name.replace("__", "."): value for name, value in inputs.items()}}


def base() -> FaultPrompt:
    """The demo's model."""
    return {
        "model": node("UNETLoader", unet_name="deft_demo_denoiser.safetensors", weight_dtype="default"),
        "clip": node("DEFTDemoTextEncoder"),
        "vae": node("VAELoader", vae_name="deft_demo_vae.safetensors"),
    }


def picture(seed: int, steps: int = 4, stacking: str = "sequential") -> FaultPrompt:
    """A picture with two adapters of the demo's."""
    prompt = base()
    last = "model"
    for name in ("deft_demo_teddy_bear_deft", "deft_demo_teddy_bear_lora"):
        prompt[f"file {name}"] = node("DEFTLoadAdapterFile", file=f"{name}.safetensors", projector="auto")
        prompt[f"with {name}"] = node(
            "DEFTApplyAdapter",
            model=[last, 0],
            adapter=[f"file {name}", 0],
            strength_model=0.7,
            strength_clip=1.0,
            removal=1.0,
            injection=1.0,
            stacking=stacking,
        )
        last = f"with {name}"
    return prompt | {
        "text": node("CLIPTextEncode", text="a sks teddy bear on a red background", clip=["clip", 0]),
        "empty": node("CLIPTextEncode", text="", clip=["clip", 0]),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "KSampler",
            model=[last, 0],
            positive=["text", 0],
            negative=["empty", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "show": node("PreviewImage", images=["decode", 0]),
    }


def training(seed: int, steps: int, run: str = "", method: str = "deft", **inputs: Any) -> FaultPrompt:
    """A training, with the folder of a run if it has a name; its adapter is shown as text by its file's name."""
    options: dict[str, Any] = {"method__rank": 4, "method__alpha": 0.0}
    if method == "deft":
        options |= {"method__projector": "qr", "method__start": "identity"}
    settings: FaultPrompt = {}
    if run:
        example = json.loads((Path(__file__).parent.parent / _SETTINGS).read_text()).values()
        given = next(each for each in example if each["class_type"] == "DEFTTrainingSettings")["inputs"]
        settings["settings"] = node(
            "DEFTTrainingSettings", **given | {"run_name": run, "checkpoint_every": CHECKPOINT_EVERY}
        )
        inputs["settings"] = ["settings", 0]
    prompt = base() | settings
    return prompt | {
        "subject": node("DEFTDemoSubject", subject="teddy_bear", token="sks"),
        "latents": node("VAEEncode", pixels=["subject", 0], vae=["vae", 0]),
        "captions": node("CLIPTextEncode", text=["subject", 1], clip=["clip", 0]),
        "train": node(
            "DEFTTrainAdapter",
            **{
                "model": ["model", 0],
                "latents": ["latents", 0],
                "positive": ["captions", 0],
                "steps": steps,
                "learning_rate": 0.001,
                "batch_size": 2,
                "layers": "all linear",
                "pattern": "",
                "seed": seed,
                "precision": "fp32",
                "gradient_checkpointing": False,
                "method": method,
            }
            | options
            | inputs,
        ),
        "report": node("PreviewAny", source=["train", 2]),
    }


def enlarged(prompt: FaultPrompt) -> FaultPrompt:
    """A training with a batch of 100 pictures, whose steps need some memory."""
    train = prompt["train"] | {"inputs": prompt["train"]["inputs"] | {"batch_size": 100}}
    return prompt | {
        "many": node("RepeatImageBatch", image=["subject", 0], amount=20),
        "latents": node("VAEEncode", pixels=["many", 0], vae=["vae", 0]),
        "captions": node("CLIPTextEncode", text="a sks teddy bear", clip=["clip", 0]),
        "train": train,
    }


def saved(prompt: FaultPrompt, prefix: str) -> FaultPrompt:
    """A training whose adapter is saved."""
    save = node(
        "DEFTSaveAdapter",
        adapter=["train", 0],
        filename_prefix=prefix,
        format="native (.safetensors)",
        place="output",
    )
    return prompt | {"save": save}


def exported(prompt: FaultPrompt, prefix: str) -> FaultPrompt:
    """A training whose adapter is exported."""
    export = node("DEFTExportLoRA", adapter=["train", 0], model=["model", 0], filename_prefix=prefix, place="output")
    return prompt | {"export": export}


def scored(label: str, **table: Any) -> FaultPrompt:
    """The scores of the subject's own pictures, in a table or in a file."""
    prompt = {
        "subject": node("DEFTDemoSubject", subject="teddy_bear", token="sks"),
        "scorer": node(
            "DEFTLoadScorer", protocol="demo", clip_weights="auto", dino_weights="auto", dinov2_weights="auto"
        ),
        "score": node(
            "DEFTScoreImages",
            scorer=["scorer", 0],
            images=["subject", 0],
            references=["subject", 0],
            text="a teddy bear",
            label=label,
            subject="teddy bear",
        ),
    }
    kind = "DEFTScoreTable" if "append_to" in table else "DEFTSaveScores"
    return prompt | {"out": node(kind, scores__scores0=["score", 0], **table)}
