"""The encoders: one file a family, one line in KINDS. `load_backbone` reads one from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..settings_file import Fields, check_bounds, read_object
from ..weights import checksum, find_weights, read_weights
from . import clip, dino, dinov3, dreamsim, lpips, pickscore, siglip2, sscd, timm_model
from .base import Backbone, BackboneSpec, EncoderSettings, HubFile, WeightFile
from .identify import identify
from .unset import Unset

_State = dict[str, torch.Tensor]
Load = Callable[[BackboneSpec, EncoderSettings, _State, Path, WeightFile], Backbone]

KINDS: dict[str, Load] = {
    "clip": clip.load,
    "dino": dino.load,
    "dinov2": dino.load,
    "timm": timm_model.load,
    "lpips": lpips.load,
    "dinov3": dinov3.load,
    "siglip2": siglip2.load,
    "dreamsim": dreamsim.load,
    "pickscore": pickscore.load,
    "sscd": sscd.load,
}

__all__ = ["KINDS", "Backbone", "BackboneSpec", "HubFile", "Settings", "WeightFile", "load_backbone"]


def load_backbone(
    spec: BackboneSpec, folders: Sequence[Path], explicit: Path | None = None, state: _State | None = None
) -> Backbone:
    """Find the weights, build the model without the network, and load every tensor.

    state: what `read_weights` gives of the file, where it has been read already.

    Raises FileNotFoundError for missing weights and ValueError for a file of another model.
    """
    path = find_weights(spec, folders, explicit)
    settings = spec.settings or read_settings(spec, path.with_suffix(".json"))
    weights = WeightFile(path.name if path.parent in folders else f"{path.parent.name}/{path.name}", checksum(path))
    state = read_weights(path) if state is None else state
    load = _filled if spec.settings else _own_model
    backbone = load(spec, settings, state, path, weights)
    backbone.identity = identify(state) or spec.name
    return backbone


def _filled(spec: BackboneSpec, settings: EncoderSettings, state: _State, path: Path, weights: WeightFile) -> Backbone:
    with Unset():
        return KINDS[spec.kind](spec, settings, state, path, weights)


def read_settings(spec: BackboneSpec, path: Path) -> EncoderSettings:
    """The settings in the JSON file beside the weights. Raises FileNotFoundError if it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{spec.name}: the settings file {path} is missing; it belongs beside the weights.")
    fields = Fields(path, read_object(path))
    return EncoderSettings(
        fields.architecture("open_clip" if spec.kind == "clip" else "timm"),
        fields.preprocess(),
        path.parent / fields.text("merges") if "merges" in fields.values else None,
        fields.checks(),
    )


def _own_model(
    spec: BackboneSpec, settings: EncoderSettings, state: _State, path: Path, weights: WeightFile
) -> Backbone:
    """A model by the arguments beside its weights, tried on a grey picture and a letter.

    Raises ValueError, its message beginning with the name of the settings' file, for arguments that make no model which
    computes: what timm and open_clip raise for them is of every kind.
    """
    beside = path.with_suffix(".json")
    if isinstance(settings.architecture, dict):
        check_bounds(settings.architecture, state, beside)
    try:
        _check_size(spec.kind, settings, state)
        backbone = _filled(spec, settings, state, path, weights)
        side = settings.preprocess.crop
        backbone.encode_pixels(torch.zeros(1, 3, side, side))
        if backbone.reads_text:
            backbone.encode_texts(["a"])
    except (RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError) as error:
        raise _no_model(beside, error) from error
    except ValueError as error:
        if str(path.name) in str(error) or beside.name in str(error):
            raise
        raise _no_model(beside, error) from error
    return backbone


def _check_size(kind: str, settings: EncoderSettings, state: _State) -> None:
    """Raise ValueError for a model with many more numbers than the file has, before they are made."""
    if kind not in BUILD:
        return
    with torch.device("meta"):
        module = BUILD[kind](settings)
    if kind == "clip" and not any("token_embedding" in key for key in state):
        module = getattr(module, "visual", module)
    needed, there = (sum(tensor.numel() for tensor in tensors) for tensors in (module.parameters(), state.values()))
    if needed > 2 * there + _FEW_NUMBERS:
        raise ValueError(f"it has {needed:,} numbers, and they have {there:,}")


BUILD = {"clip": clip.build, "dino": dino.build, "dinov2": dino.build}
_FEW_NUMBERS = 10_000_000  # 40 MB


def _no_model(path: Path, error: Exception) -> ValueError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ValueError(f"{path} describes no model that computes with the weights beside it ({reason}).")
