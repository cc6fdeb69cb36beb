"""Layer names of text encoders as transformers, PEFT and diffusers write them."""

from __future__ import annotations

from typing import Any

from .tables import WEIGHT

# diffusers numbers the text encoders of a pipeline. Most pipelines have CLIP first, then T5, then language models.
_ORDER = ("clip_l", "clip_h", "hydit_clip", "clip_g", "t5xxl", "mt5xl", "pile_t5xl", "umt5xxl")
# Pipelines that differ, by ComfyUI's class. SD3 keeps its numbers when a text encoder is not loaded.
_FIXED = {
    "SD3ClipModel": ("clip_l", "clip_g", "t5xxl"),
    "HiDreamTEModel": ("clip_l", "clip_g", "t5xxl", "llama"),
    "HunyuanVideoClipModel": ("llama", "clip_l"),
    "Kandinsky5TEModel": ("qwen25_7b", "clip_l"),
}
_PROJECTION = "text_embedding_projection"


def component(number: int) -> str:
    """The pipeline component of a text encoder, counted from 0."""
    return "text_encoder" if number == 0 else f"text_encoder_{number + 1}"


def encoders(network: Any) -> dict[str, str]:
    """The mapping ComfyUI's module name of each text encoder -> pipeline component, in the order of the pipeline."""
    present = list(dict.fromkeys(key.split(".")[0] for key in network.state_dict() if ".transformer." in key))
    for kind in type(network).__mro__:
        if kind.__name__ in _FIXED:
            fixed = _FIXED[kind.__name__]
            return {name: component(number) for number, name in enumerate(fixed) if name in present}
    order = sorted(present, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    return {name: component(number) for number, name in enumerate(order)}


def transformers_paths(path: str) -> list[str]:
    """The module paths in transformers of a module of ComfyUI's encoder.

    CLIP has `text_model.` in front except in the model without projection of transformers 5. A language model has
    `model.` in front if it has a head, and `language_model.` if it belongs to one that sees.
    """
    if path.startswith("text_model."):
        return [path, path.removeprefix("text_model.")]
    if path.startswith("bert."):
        return [path.removeprefix("bert.")]
    if path.startswith("model."):
        bare = path.removeprefix("model.")
        return [path, bare, f"model.language_model.{bare}", f"language_model.{bare}", f"language_model.model.{bare}"]
    if path.startswith("visual."):
        return [path, f"model.{path}"]
    return [path]


def encoder_names(network: Any) -> dict[str, str]:
    """Every layer name of transformers, PEFT and diffusers that means a weight of these text encoders.

    Names without the component mean the first encoder that has such a layer: SDXL's CLIP-L, not its CLIP-G.
    """
    keys = [key for key in network.state_dict() if key.endswith(WEIGHT)]
    names: dict[str, str] = {}
    for encoder, part in encoders(network).items():
        head = f"{encoder}.transformer."
        table = {
            path: key
            for key in keys
            if key.startswith(head)
            for path in transformers_paths(key[len(head) : -len(WEIGHT)])
        }
        prefixes = [f"{part}.", f"{part}.base_model.model."]
        if not any(path in names for path in table):
            prefixes += ["", "base_model.model."]
        names |= {prefix + path: key for prefix in prefixes for path, key in table.items()}
    # LTX-2's projection, by its name in the published weights (ComfyUI's LTXAVTEModel.load_sd) and in diffusers.
    projections = {key.removesuffix(WEIGHT): key for key in keys if key.startswith(_PROJECTION)}
    if _PROJECTION in projections:
        names |= dict.fromkeys((f"{_PROJECTION}.aggregate_embed", "connectors.text_proj_in"), projections[_PROJECTION])
    return projections | names
