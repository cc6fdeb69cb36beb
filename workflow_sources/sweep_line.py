"""The workflows that sweeps vary: one line from photos to scores.

Plans name nodes by their titles, so these are short and no two are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .prompt import APPLY, SETTINGS, Connection, PromptBuilder
from .scorers import AUTO_WEIGHTS as MODELS
from .tables import SEED, PaperTable, TableMethod

TOKEN_MARK = "[token]"  # in a prompt of sweep_sd15 as it is saved: what Train token has learnt


def of_table(
    table: PaperTable, name: str, row: TableMethod, folder: str, kind: str, words: str, subject: str
) -> PromptBuilder:
    """The line with a table's model and settings, saved as a row and a subject of it.

    Where the table has such rows: pictures of the class for the training, and Textual Inversion beside it.
    """
    prompt = PromptBuilder()
    model = prompt.add(1, "CheckpointLoaderSimple", "Model", {"ckpt_name": table.checkpoint})
    clip, vae = [model[0], 1], [model[0], 2]
    scorer = prompt.add(2, "DEFTLoadScorer", "Scorer", {"protocol": table.protocol, **MODELS})
    side = {"width": table.side, "height": table.side}
    size = prompt.add(3, "EmptyLatentImage", "Size", {**side, "batch_size": 1})
    settings = prompt.add(
        4, "DEFTTrainingSettings", "Settings", {**SETTINGS, **row.settings, "run_name": f"{name}/training"}
    )
    photos = prompt.add(10, "LoadImageDataSetFromFolder", "Photos", {"folder": folder})
    cut = prompt.add(11, "ImageScale", "Cut", {"image": photos, "upscale_method": "lanczos", **side, "crop": "center"})
    latents = prompt.add(12, "VAEEncode", "Encode photos", {"pixels": cut, "vae": vae})
    caption = prompt.add(13, "CLIPTextEncode", "Caption", {"text": table.caption.format(kind), "clip": clip})
    negative = prompt.add(14, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    prior: dict[str, Connection] = {}
    if any(one.prior for one in table.methods):
        of_class = prompt.add(15, "CLIPTextEncode", "Class prompt", {"text": f"a photo of a {kind}", "clip": clip})
        whole = prompt.add(16, "EmptyLatentImage", "200 class pictures", {**side, "batch_size": 200})
        parts = prompt.add(17, "RebatchLatents", "Eight at a time", {"latents": whole, "batch_size": 8})
        pictures = prompt.add(
            18,
            "KSampler",
            "Class pictures",
            {
                "model": model,
                "positive": of_class,
                "negative": negative,
                "latent_image": parts,
                "seed": SEED,
                **table.sampling,
                "denoise": 1.0,
            },
        )
        prior = {"prior_latents": pictures, "prior_positive": of_class}
    trained = prompt.add(
        20,
        "DEFTTrainAdapter",
        "Train",
        {
            "model": model,
            "latents": latents,
            "positive": caption,
            **row.training,
            "settings": settings,
            **prior,
        },
    )
    text = prompt.add(40, "PrimitiveStringMultiline", "Prompt", {"value": words})
    final = text
    for one in table.methods:
        if one.inversion:
            token_settings = prompt.add(
                30, "DEFTTrainingSettings", "Token settings", {**SETTINGS, **one.settings, "run_name": f"{name}/token"}
            )
            learnt = prompt.add(
                31,
                "DEFTTrainTextualInversion",
                "Train token",
                {
                    "model": model,
                    "clip": clip,
                    "latents": latents,
                    "token": f"{name.replace('_', '-')}-{subject}",
                    "start": kind,
                    **one.training,
                    "settings": token_settings,
                },
            )
            final = prompt.add(41, "StringReplace", "Replace", {"string": text, "find": TOKEN_MARK, "replace": learnt})
    positive = prompt.add(42, "CLIPTextEncode", "Encode prompt", {"text": final, "clip": clip})
    end(
        prompt,
        model,
        trained,
        positive,
        negative,
        size,
        vae,
        scorer,
        photos,
        name,
        {"seed": SEED, **table.sampling},
        {"text": text, "label": row.label, "subject": subject, "token": table.token},
    )
    return prompt


def end(
    prompt: PromptBuilder,
    model: Connection,
    trained: Connection,
    positive: Connection,
    negative: Connection,
    size: Connection,
    vae: Connection,
    scorer: Connection,
    photos: Connection,
    name: str,
    sampling: Mapping[str, Any],
    scored: Mapping[str, Any],
) -> None:
    """Add the end of all lines: apply, sample, decode, save, score, save the scores."""
    applied = prompt.add(21, "DEFTApplyAdapter", "Apply", {"model": model, "adapter": trained, **APPLY})
    latent = prompt.add(
        50,
        "KSampler",
        "Sample",
        {
            "model": applied,
            "positive": positive,
            "negative": negative,
            "latent_image": size,
            **sampling,
            "denoise": 1.0,
        },
    )
    images = prompt.add(51, "VAEDecode", "Decode", {"samples": latent, "vae": vae})
    prompt.add(52, "SaveImage", "Save picture", {"images": images, "filename_prefix": f"{name}/picture"})
    scores = prompt.add(
        60,
        "DEFTScoreImages",
        "Score",
        {
            "scorer": scorer,
            "images": images,
            "references": photos,
            **scored,
            "adapter": trained,
        },
    )
    prompt.add(61, "DEFTSaveScores", "Save scores", {"scores.scores0": scores, "filename_prefix": f"{name}/scores"})
