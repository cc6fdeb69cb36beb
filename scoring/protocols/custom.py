"""Any CLIP of open_clip's and any image model of timm's, by name."""

from __future__ import annotations

import re
from typing import Literal

from ..backbones import BackboneSpec, EncoderSettings, HubFile
from ..backbones.timm_model import spec_of
from ..packages import needed_by
from ..preprocessing import OPENAI_CLIP, Preprocess
from .base import Measure, Protocol


def clip_spec(name: str) -> BackboneSpec:
    """A CLIP by open_clip's names: MODEL/WEIGHTS, such as ViT-B-32/laion2b_s34b_b79k, or MODEL alone.

    The weights' name says whether it is QuickGELU that they were trained with, and how they want pictures.
    Raises ValueError for a name that open_clip does not know.
    """
    with needed_by("CLIP"):
        from open_clip import get_model_config, get_pretrained_cfg, list_pretrained_tags_by_model

    model, _, tag = (part.strip() for part in name.partition("/"))
    config = get_model_config(model)
    if config is None:
        raise ValueError(
            f"open_clip has no model {model!r}; write a name such as ViT-L-14/openai. See open_clip.list_pretrained()."
        )
    weights = get_pretrained_cfg(model, tag) if tag else {}
    if tag and not weights:
        raise ValueError(
            f"open_clip has no weights {tag!r} of {model}; it has "
            f"{', '.join(list_pretrained_tags_by_model(model)) or 'none'}."
        )
    # Older releases of open_clip have no such entry for OpenAI's weights.
    if (weights.get("quick_gelu") or tag == "openai") and not config.get("quick_gelu"):
        model = f"{model}-quickgelu"
    side = config["vision_cfg"].get("image_size", 224)
    mean, std = (
        tuple(weights.get(key) or standard) for key, standard in zip(("mean", "std"), OPENAI_CLIP, strict=True)
    )
    repository = str(weights.get("hf_hub", "")).strip("/")
    file = re.sub(r"[^A-Za-z0-9._-]", "_", f"{model}_{tag}" if tag else model)
    hub = tuple(HubFile(repository, filename) for filename in ("open_clip_model.safetensors", "model.safetensors"))
    where = f"open_clip_model.safetensors of {repository} on Hugging Face" if repository else "the model's file"
    return BackboneSpec(
        f"CLIP {model}" + (f" ({tag})" if tag else ""),
        "clip",
        (f"{file}.safetensors", f"{file}.pt"),
        "",
        where,
        EncoderSettings(model, Preprocess(side, side, mean, std)),
        hub if repository else (),
    )


def timm_metric(name: str) -> str:
    """The metric that a model of timm's gives: DINO and its successors by their names, else a likeness by that name."""
    match = re.search(r"dino(v\d+)?", name)
    return f"DINO{match.group(1) or ''}" if match else f"likeness ({name})"


def custom(clip: str = "", image: str = "", pairing: Literal["all", "matched"] = "all", scale: float = 1.0) -> Protocol:
    """A protocol of one's own: CLIP-I and CLIP-T by a CLIP of open_clip's, likeness by an image model of timm's.

    Raises ValueError for no model at all, and for names that the packages do not know.
    """
    measures: list[Measure] = []
    if clip.strip():
        spec = clip_spec(clip)
        measures += [Measure("CLIP-I", spec, pairing, scale), Measure("CLIP-T", spec, "text", scale)]
    if image.strip():
        spec = spec_of(image.strip())
        measures += [
            Measure(timm_metric(image), spec, pairing, scale),
            Measure("drift", spec, "base"),
            Measure("PRES", spec, "prior", scale),
            Measure("diversity", spec, "within"),
        ]
    if not measures:
        raise ValueError("the custom protocol needs a model: write an open_clip name, a timm name, or both.")
    return Protocol("custom", "models of your choice", tuple(measures))
