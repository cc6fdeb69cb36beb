"""A training that goes too far on purpose, and which of its checkpoints to take."""

from __future__ import annotations

from ...demo import CLIP, EMPTY, MODEL, PHOTOS, SCORER, SIZE, VAE, DemoExample, on_backgrounds
from ...prompt import SETTINGS, TOKEN, PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.photos()
    it.sampling()
    it.scorer()
    one = it.add(5, "ImageFromBatch", "One photo of the five", {"image": PHOTOS, "batch_index": 0, "length": 1})
    latents = it.add(6, "VAEEncode", "Encode the photo", {"pixels": one, "vae": VAE})
    caption = it.add(7, "CLIPTextEncode", "Its caption", {"text": "a sks teddy bear", "clip": CLIP})
    preview = "a sks teddy bear on a blue background"
    it.add(12, "CLIPTextEncode", "Preview: another background", {"text": preview, "clip": CLIP})
    previews = it.add(
        14,
        "DEFTTrainingPreviews",
        "A scored preview every 10 steps",
        {
            "vae": VAE,
            "positive": ["12", 0],
            "negative": EMPTY,
            "latent": SIZE,
            "every": 10,
            "steps": 6,
            "cfg": 2.0,
            "sampler": "euler",
            "scheduler": "simple",
            "seed": 7,
            "scorer": SCORER,
            "references": PHOTOS,
            "text": preview,
            "token": TOKEN,
            "stop_after": 0,
        },
    )
    settings = it.add(
        15,
        "DEFTTrainingSettings",
        "A checkpoint every 30 steps",
        {**SETTINGS, "run_name": f"{it.name}/training", "checkpoint_every": 30, "keep": 9},
    )
    adapter = it.add(
        20,
        "DEFTTrainAdapter",
        "Train for too long",
        {
            "model": MODEL,
            "latents": latents,
            "positive": caption,
            "method": "dreambooth",
            "steps": 90,
            "learning_rate": 1.5e-5,
            "batch_size": 4,
            "layers": "everything",
            "pattern": "",
            "seed": 1,
            "precision": "fp32",
            "gradient_checkpointing": False,
            "settings": settings,
            "previews": previews,
        },
    )
    compared = it.add(
        60,
        "DEFTCompareCheckpoints",
        "Compare the checkpoints",
        {
            "model": MODEL,
            "clip": CLIP,
            "vae": VAE,
            "latent": SIZE,
            "scorer": SCORER,
            "references": PHOTOS,
            "checkpoints": "none",
            "prompts": "\n".join(on_backgrounds("a sks teddy bear", 6)),
            "negative": "",
            "strengths": "1",
            "seeds": 2,
            "first_seed": 3,
            "steps": 6,
            "cfg": 2.0,
            "sampler": "euler",
            "scheduler": "simple",
            "drift_prompts": "",
            "token": TOKEN,
            "with_base": True,
            "layout": "first seed only",
            "adapter": adapter,
        },
    )
    it.add(
        8,
        "CLIPTextEncode",
        "Prompt to draw",
        {"text": "a sks teddy bear on a purple background", "clip": [compared[0], 1]},
    )
    picture = it.draw(0, "the recommended one", compared, ["8", 0])
    it.save(51, picture, "The picture", "picture")
    it.save(70, [compared[0], 3], "All checkpoints", "grid")
    it.add(71, "PreviewImage", "Likeness against prompt following", {"images": [compared[0], 4]})
    it.show_text(72, "Which one, and why", [compared[0], 6])
    return it
