"""The fields by which LoRA managers know an adapter's base, its words and its kind: `modelspec.*` and `ss_*`.

ModelSpec (https://github.com/Stability-AI/ModelSpec) requires the architecture: the id of the base that an architecture
was first made for, "/lora" after it for whatever is added to one. The values are those that kohya's sd-scripts and
musubi-tuner write. Nothing here changes from one training to the same again: no date, no session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PREFIXES = ("modelspec.", "ss_")
# Of a file's own tensors and header, so they are never of another one.
HASHES = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
LONGEST_TRIGGER = 100  # characters; a longer text is a description


class BaseNames(NamedTuple):
    """The names of a base: ModelSpec's architecture, kohya's version, and the resolution that it is made for."""

    architecture: str
    version: str
    resolution: str = ""


_SD2 = BaseNames("stable-diffusion-v2-512", "sd_v2", "512x512")
_SD2_V = BaseNames("stable-diffusion-v2-768-v", "sd_v2_v", "768x768")
_SD1_V = BaseNames("stable-diffusion-v1", "sd_v1_v", "512x512")
# By the names of ComfyUI's configurations (comfy/supported_models.py): those that tell bases apart.
_CONFIGS = {
    "SD15": BaseNames("stable-diffusion-v1", "sd_v1", "512x512"),
    "SD20": _SD2,
    "SDXL": BaseNames("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", "1024x1024"),
    "SD3": BaseNames("stable-diffusion-3", "sd3", "1024x1024"),
    "Flux": BaseNames("flux-1-dev", "flux1", "1024x1024"),
    "FluxSchnell": BaseNames("flux-1-schnell", "flux1", "1024x1024"),
    "Chroma": BaseNames("chroma", "chroma", "1024x1024"),
    "Lumina2": BaseNames("lumina-2", "lumina2", "1024x1024"),
    "Anima": BaseNames("anima-preview", "anima", "1024x1024"),
    "HunyuanImage21": BaseNames("hunyuan-image-2.1", "hunyuan-image-2.1"),
    "ZImage": BaseNames("Z-Image", "z_image"),
    "QwenImage": BaseNames("Qwen-Image", "qwen_image"),
    "HunyuanVideo": BaseNames("hunyuan-video", "hunyuan_video"),
    "HunyuanVideo15": BaseNames("hunyuan-video-1.5", "hunyuan_video_1_5"),
    "WAN21_T2V": BaseNames("wan2.1", "wan"),
    "WAN21_I2V": BaseNames("wan2.1", "wan"),
    "HiDreamO1": BaseNames("HiDream-O1-Image", "hidream_o1_image"),
    "Ideogram4": BaseNames("Ideogram-4", "ideogram4"),
    "Krea2": BaseNames("Krea-2", "krea2"),
}
# By the names of ComfyUI's model classes, where a file says no more than that: those that are one base, or one family.
# BaseModel is Stable Diffusion 1 and 2, SDXL its smaller kin too, Lumina2 also Z-Image, WAN21 and HunyuanVideo several.
_CLASSES = {
    "SD3": _CONFIGS["SD3"],
    "Flux": BaseNames("flux-1", "flux1", "1024x1024"),
    "Chroma": _CONFIGS["Chroma"],
    "Anima": _CONFIGS["Anima"],
    "HunyuanImage21": _CONFIGS["HunyuanImage21"],
    "QwenImage": _CONFIGS["QwenImage"],
    "HiDreamO1": _CONFIGS["HiDreamO1"],
    "Ideogram4": _CONFIGS["Ideogram4"],
    "Krea2": _CONFIGS["Krea2"],
}


def base_of(model: Any) -> BaseNames | None:
    """The names of the base of a ComfyUI model (MODEL's `model`); None for an unknown one."""
    config = getattr(model, "model_config", None)
    names = _CONFIGS.get(type(config).__name__)
    velocity = getattr(getattr(model, "model_type", None), "name", "") == "V_PREDICTION"
    if names is _SD2 and velocity:
        return _SD2_V
    if names is _CONFIGS["SD15"] and velocity:
        return _SD1_V
    if names is _CONFIGS["SD3"]:
        settings: Mapping[str, Any] = getattr(config, "unet_config", None) or {}
        later = "5-medium" if settings.get("x_block_self_attn_layers") else "5-large"
        kind = later if settings.get("qk_norm") else "medium"
        return names._replace(architecture=f"{names.architecture}-{kind}")
    return names


def named(name: str) -> BaseNames | None:
    """The names of a base from the name of ComfyUI's class alone; None if several bases have that class."""
    return _CLASSES.get(name)


def base_fields(base: BaseNames | None, kind: str = "lora") -> dict[str, str]:
    """The fields that name the base of an adapter; none for an unknown one."""
    if base is None:
        return {}
    fields = {
        "modelspec.architecture": f"{base.architecture}/{kind}",
        "modelspec.resolution": base.resolution,
        "ss_base_model_version": base.version,
        # Older programs know Stable Diffusion 2 by this alone.
        "ss_v2": str(base.version.startswith("sd_v2")) if base.version.startswith("sd") else "",
    }
    return {key: value for key, value in fields.items() if value}


def completed(metadata: Mapping[str, str], base: BaseNames | None) -> dict[str, str]:
    """The fields of a base that metadata lack; none where they name another one."""
    fields = base_fields(base)
    base_keys = ("modelspec.architecture", "ss_base_model_version")
    if any(metadata.get(key, fields.get(key)) != fields.get(key) for key in base_keys):
        return {}
    return {key: value for key, value in fields.items() if key not in metadata}


def own_fields(name: str) -> dict[str, str]:
    """The fields for ModelSpec's version, a file's title, and its program's form."""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": name,
        "modelspec.implementation": "deft-nodes",
    }


def caption_fields(captions: Sequence[str], pictures: int) -> dict[str, str]:
    """The tags of captions with how often each is there, and the words that are in all of them, as triggers.

    Tags are what is between commas, in lower case, as in kohya's scripts; one caption is of all pictures.
    """
    texts = [text.strip() for text in captions if text.strip()]
    if not texts:
        return {}
    times = pictures if len(captions) == 1 else 1
    counts: dict[str, int] = {}
    for tag in (tag for text in texts for tag in _tags(text)):
        counts[tag.lower()] = counts.get(tag.lower(), 0) + times
    fields = {"ss_tag_frequency": json.dumps({"img": counts})}
    tag_sets = [{tag.lower() for tag in _tags(text)} for text in texts] if len(texts) == len(captions) else [set()]
    shared = [tag for tag in dict.fromkeys(_tags(texts[0])) if all(tag.lower() in tags for tags in tag_sets)]
    trigger = ", ".join(shared)
    if trigger and len(trigger) <= LONGEST_TRIGGER:
        fields["modelspec.trigger_phrase"] = trigger
        fields["ss_datasets"] = json.dumps([{"subsets": [{"class_tokens": trigger, "img_count": pictures}]}])
    return fields


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def of_managers(metadata: Mapping[str, str]) -> dict[str, str]:
    """The fields of a header that managers read, without hashes."""
    return {key: value for key, value in metadata.items() if key.startswith(PREFIXES) and key not in HASHES}


def about_words(metadata: Mapping[str, str]) -> dict[str, str]:
    """The fields about an adapter's training, which hold for whatever it is converted to."""
    names = (
        "ss_tag_frequency",
        "ss_datasets",
        "modelspec.trigger_phrase",
        "modelspec.tags",
        "modelspec.author",
        "modelspec.description",
        "modelspec.license",
        "modelspec.usage_hint",
    )
    return {name: metadata[name] for name in names if name in metadata}
