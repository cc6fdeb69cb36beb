"""Any image model of timm's, with timm's own preprocessing and its own reading of weight files."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import torch

from ..packages import needed_by
from ..preprocessing import Preprocess
from .base import Backbone, BackboneSpec, EncoderSettings, HubFile, WeightFile
from .identify import identify
from .unset import Unset, unset

HEADS = ("head", "fc", "classifier", "mask_token")  # tensors of a file that features do not need


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """The model without its classifier. timm renames keys and resamples position embeddings for its architectures.

    Raises ValueError for a file of another model.
    """
    name = str(settings.architecture)
    try:
        with Unset():
            module = _filled(name, state)
    except (RuntimeError, KeyError, AttributeError) as error:  # raised by timm's renaming and by torch for other files
        raise ValueError(
            f"{path} does not hold {spec.name} ({str(error).splitlines()[0]}). It looks like "
            f"{identify(state) or 'another model'}."
        ) from error
    missing = unset(module)  # timm does not report which tensors are missing in the file
    own = module.state_dict().keys()
    extra = sorted(key for key in state.keys() - own if not key.startswith(HEADS))
    unknown = extra if own <= state.keys() else []  # otherwise timm has renamed them
    if wrong := missing or unknown:
        what = f"{len(wrong)} tensors {'missing' if missing else 'unknown'}, such as {wrong[0]}"
        raise ValueError(f"{path} does not hold {spec.name}: {what}.")
    return Backbone.of(spec, settings, module, weights)


def _filled(name: str, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    with needed_by("An image model of timm's"):
        from timm import create_model

    return create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": dict(state)})


def spec_of(name: str) -> BackboneSpec:
    """The BackboneSpec of one of timm's models, such as vit_small_patch16_224.dino.

    Raises ValueError for a name that timm does not know.
    """
    with needed_by("An image model of timm's"):
        import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 5, 0.3)
        raise ValueError(f"timm has no model {name!r}; similar: {', '.join(near) or 'none'}. See timm.list_models().")
    config = timm.get_pretrained_cfg(name)
    side = config.input_size[-1]
    preprocess = Preprocess(
        int(side / config.crop_pct), side, tuple(config.mean), tuple(config.std), interpolation=config.interpolation
    )
    full = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    hub = (HubFile(config.hf_hub_id, "model.safetensors"),) if config.hf_hub_id else ()
    return BackboneSpec(
        f"timm {full}",
        "timm",
        (f"{full}.safetensors", f"{full}/model.safetensors"),
        "",
        f"model.safetensors of {config.hf_hub_id} on Hugging Face",
        EncoderSettings(full, preprocess),
        hub,
    )
