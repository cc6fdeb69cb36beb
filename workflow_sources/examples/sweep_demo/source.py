"""The line of the sweeps on the demo's small model."""

from __future__ import annotations

from ...prompt import TOKEN, PromptBuilder
from ...sweep_line import MODELS, end


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    line = PromptBuilder()
    words = "a sks teddy bear on a red background"
    model = line.add(
        1, "UNETLoader", "Model", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}
    )
    clip = line.add(2, "DEFTDemoTextEncoder", "Text encoder", {})
    vae = line.add(3, "VAELoader", "Autoencoder", {"vae_name": "deft_demo_vae.safetensors"})
    scorer = line.add(4, "DEFTLoadScorer", "Scorer", {"protocol": "demo", **MODELS})
    size = line.add(5, "EmptySD3LatentImage", "Size", {"width": 64, "height": 64, "batch_size": 1})
    photos = line.add(10, "DEFTDemoSubject", "Photos", {"subject": "teddy_bear", "token": TOKEN})
    latents = line.add(11, "VAEEncode", "Encode photos", {"pixels": photos, "vae": vae})
    captions = line.add(12, "CLIPTextEncode", "Captions", {"text": [photos[0], 1], "clip": clip})
    trained = line.add(
        20,
        "DEFTTrainAdapter",
        "Train",
        {
            "model": model,
            "latents": latents,
            "positive": captions,
            "method": "deft",
            "method.rank": 4,
            "method.alpha": 0.0,
            "method.projector": "qr",
            "method.start": "identity",
            "steps": 400,
            "learning_rate": 0.001,
            "batch_size": 5,
            "layers": "all linear",
            "pattern": "",
            "seed": 1,
            "precision": "fp32",
            "gradient_checkpointing": False,
        },
    )
    positive = line.add(40, "CLIPTextEncode", "Prompt", {"text": words, "clip": clip})
    negative = line.add(41, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    end(
        line,
        model,
        trained,
        positive,
        negative,
        size,
        vae,
        scorer,
        photos,
        name,
        {"seed": 7, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"},
        {"text": words, "label": "DEFT r4", "subject": "teddy bear", "token": TOKEN},
    )
    return line
