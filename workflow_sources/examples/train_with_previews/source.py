"""Pictures while it trains, and a checkpoint from which a stopped training goes on."""

from __future__ import annotations

from ...demo import CLIP, EMPTY, MODEL, SIZE, VAE, DemoExample, on_backgrounds
from ...prompt import SETTINGS, PromptBuilder


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    it = DemoExample(name)
    it.subject()
    it.sampling()
    it.add(
        12,
        "CLIPTextEncode",
        "Preview: another background",
        {"text": "a sks teddy bear on a blue background", "clip": CLIP},
    )
    previews = it.add(
        14,
        "DEFTTrainingPreviews",
        "A preview every 20 steps",
        {
            "vae": VAE,
            "positive": ["12", 0],
            "negative": EMPTY,
            "latent": SIZE,
            "every": 20,
            "steps": 12,
            "cfg": 3.0,
            "sampler": "euler",
            "scheduler": "simple",
            "seed": 7,
        },
    )
    settings = it.add(
        15,
        "DEFTTrainingSettings",
        "A checkpoint every 50 steps",
        {
            **SETTINGS,
            "run_name": f"{it.name}/training",
            "checkpoint_every": 50,
            "keep": 2,
        },
    )
    adapter = it.train(20, "DEFT r4", settings=settings, previews=previews, steps=200)
    it.add(70, "PreviewImage", "Loss", {"images": ["20", 3]})
    it.save(71, ["20", 4], "Previews by step", "previews")
    it.show_text(72, "What the training says", ["20", 2])
    it.add(
        73,
        "DEFTSaveAdapter",
        "Save the adapter",
        {
            "adapter": adapter,
            "filename_prefix": f"{it.name}/teddy_bear",
            "format": "native (.safetensors)",
            "place": "output",
        },
    )
    it.prompts(on_backgrounds("a sks teddy bear", 4))
    model = it.apply(30, "DEFT r4", adapter)
    it.grid({"Base": it.draw(0, "Base", MODEL), "DEFT r4": it.draw(1, "DEFT r4", model)}, node=74)
    return it
