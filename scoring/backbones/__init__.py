"""The encoders: one file a family, one line in KINDS. `load_backbone` reads one from a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..preprocessing import Preprocess
from ..weights import checksum, find_weights, read_weights
from . import clip, dino, lpips, timm_model
from .base import Backbone, BackboneSpec, EncoderSettings, HubFile, WeightFile
from .identify import identify

Load = Callable[[BackboneSpec, EncoderSettings, dict[str, torch.Tensor], Path, WeightFile], Backbone]

KINDS: dict[str, Load] = {
    "clip": clip.load,
    "dino": dino.load,
    "dinov2": dino.load,
    "timm": timm_model.load,
    "lpips": lpips.load,
}

__all__ = ["KINDS", "Backbone", "BackboneSpec", "HubFile", "Settings", "WeightFile", "load_backbone"]


def load_backbone(spec: BackboneSpec, folders: Sequence[Path], explicit: Path | None = None) -> Backbone:
    """Find the weights, build the model without the network, and load every tensor.

    Raises FileNotFoundError for missing weights and ValueError for a file of another model.
    """
    path = find_weights(spec, folders, explicit)
    settings = spec.settings or read_settings(spec, path.with_suffix(".json"))
    weights = WeightFile(path.name if path.parent in folders else f"{path.parent.name}/{path.name}", checksum(path))
    state = read_weights(path)
    backbone = KINDS[spec.kind](spec, settings, state, path, weights)
    backbone.identity = identify(state) or spec.name
    return backbone


def read_settings(spec: BackboneSpec, path: Path) -> EncoderSettings:
    """The settings in the JSON file beside the weights. Raises FileNotFoundError if it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{spec.name}: the settings file {path} is missing; it belongs beside the weights.")
    settings = json.loads(path.read_text(encoding="utf-8"))
    values = settings["preprocess"]
    return EncoderSettings(
        settings["open_clip" if spec.kind == "clip" else "timm"],
        Preprocess(values["resize"], values["crop"], tuple(values["mean"]), tuple(values["std"])),
        path.parent / settings["merges"] if "merges" in settings else None,
        tuple(settings.get("checks", ())),
    )
