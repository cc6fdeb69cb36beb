"""One line for PEFT's image benchmark on Flux.2 klein: likeness to a photo that was held out, drift from the base."""

from __future__ import annotations

from ...bases import BASES, CLIP, MODEL, VAE, load
from ...peft_image import ROWS, SAMPLING, SIDE, TRAINING, TRAINING_SETTINGS
from ...prompt import APPLY, TOKEN, Connection, PromptBuilder
from ...scorers import AUTO_WEIGHTS

_PROMPT = f"a photo of a {TOKEN} bear on a wooden table"


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form, saved as the benchmark's first row on the demo's photos."""
    line = PromptBuilder()
    load(line, BASES["Flux.2 klein"])
    model, clip, vae = ([str(number), 0] for number in (MODEL, CLIP, VAE))
    scorer = line.add(4, "DEFTLoadScorer", "Scorer", {"protocol": "peft", **AUTO_WEIGHTS})
    settings = line.add(5, "DEFTTrainingSettings", "Settings", {**TRAINING_SETTINGS, "run_name": f"{name}/training"})
    photos = line.add(
        10,
        "DEFTPrepareTrainingPictures",
        "Photos",
        {
            "folder": "demo/teddy_bear",
            "vae": vae,
            "clip": clip,
            "model": model,
            "default_caption": "a photo of [trigger]",
            "trigger_word": TOKEN,
            "size": SIDE,
            "crop": "middle",
            "flips": False,
        },
    )
    first = ROWS[0]
    trained = line.add(
        20,
        "DEFTTrainAdapter",
        "Train",
        {
            "model": model,
            "latents": photos,
            "positive": [photos[0], 1],
            "captions": [photos[0], 2],
            "settings": settings,
            **TRAINING,
            **first.training,
        },
    )
    applied = line.add(21, "DEFTApplyAdapter", "Apply", {"model": model, "adapter": trained, **APPLY})
    text = line.add(40, "PrimitiveStringMultiline", "Prompt", {"value": _PROMPT})
    with_adapter, of_base = draw(line, model, applied, clip, vae, text)
    line.add(56, "SaveImage", "Save picture", {"images": with_adapter, "filename_prefix": f"{name}/picture"})
    held_out = line.add(60, "LoadImage", "Held-out photo", {"image": "example.png"})
    scored = {"text": text, "label": first.label, "subject": "bear", "adapter": trained, "token": TOKEN}
    likeness = line.add(
        61, "DEFTScoreImages", "Score", {"scorer": scorer, "images": with_adapter, "references": held_out, **scored}
    )
    line.add(62, "DEFTSaveScores", "Save scores", {"scores.scores0": likeness, "filename_prefix": f"{name}/scores"})
    drift = line.add(
        73,
        "DEFTScoreDrift",
        "Score drift",
        {"scorer": scorer, "images": with_adapter, "base_images": of_base, **scored},
    )
    line.add(74, "DEFTSaveScores", "Save drift", {"scores.scores0": drift, "filename_prefix": f"{name}/drift"})
    return line


def draw(
    line: PromptBuilder, model: Connection, applied: Connection, clip: Connection, vae: Connection, text: Connection
) -> tuple[Connection, Connection]:
    """Add what draws the prompt with the adapter and by the base, from the same noise; the pictures of both."""
    positive = line.add(42, "CLIPTextEncode", "Encode prompt", {"text": text, "clip": clip})
    negative = line.add(43, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    side = {"width": SIDE, "height": SIDE}
    size = line.add(6, "EmptyFlux2LatentImage", "Size", {**side, "batch_size": 1})
    noise = line.add(50, "RandomNoise", "Noise", {"noise_seed": 100_000})
    sampler = line.add(52, "KSamplerSelect", "Sampler", {"sampler_name": SAMPLING["sampler"]})
    sigmas = line.add(53, "Flux2Scheduler", "Noise levels", {"steps": SAMPLING["steps"], **side})
    pictures = []
    for start, network, whose in ((51, applied, ""), (70, model, " of the base")):
        guider = line.add(
            start,
            "CFGGuider",
            f"Guidance{whose}",
            {"model": network, "positive": positive, "negative": negative, "cfg": SAMPLING["cfg"]},
        )
        place, after = (54, 55) if whose == "" else (71, 72)
        samples = line.add(
            place,
            "SamplerCustomAdvanced",
            f"Sample{whose}",
            {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": size},
        )
        pictures.append(line.add(after, "VAEDecode", f"Decode{whose}", {"samples": samples, "vae": vae}))
    return pictures[0], pictures[1]
