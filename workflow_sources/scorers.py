"""The weight files of the scorers that the examples name, for the page to offer their download.

Load Scorer finds the same weights where its widgets hold `auto`, but the page looks at nothing but a widget's value.
The examples that are opened in the page hold the name under which Load Scorer's own download keeps the file; where it
is not there, the node looks as with `auto`. The lines of the sweeps, which run without a page, keep `auto`.
"""

from __future__ import annotations

from collections.abc import Mapping

_HUB = "https://huggingface.co"
_CLIP_B32 = "clip-vit-base-patch32.safetensors"
_DINO_S16 = "dino_deitsmall16_pretrain.safetensors"
_DINO_S8 = "dino_deitsmall8_pretrain.safetensors"
_DINOV2_S14 = "dinov2-small.safetensors"

# By the file's name: the folder below models, and the address.
SCORER_FILES: Mapping[str, tuple[str, str]] = {
    _CLIP_B32: ("scorers", f"{_HUB}/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors"),
    _DINO_S16: ("scorers", f"{_HUB}/timm/vit_small_patch16_224.dino/resolve/main/model.safetensors"),
    _DINO_S8: ("scorers", f"{_HUB}/timm/vit_small_patch8_224.dino/resolve/main/model.safetensors"),
    _DINOV2_S14: ("scorers", f"{_HUB}/facebook/dinov2-small/resolve/main/model.safetensors"),
}
AUTO_WEIGHTS = {"clip_weights": "auto", "dino_weights": "auto", "dinov2_weights": "auto"}
# Load Scorer's inputs by protocol.
WEIGHTS: Mapping[str, Mapping[str, str]] = {
    "clip-image": {**AUTO_WEIGHTS, "clip_weights": _CLIP_B32},
    "dreambooth": {"clip_weights": _CLIP_B32, "dino_weights": _DINO_S16, "dinov2_weights": _DINOV2_S14},
    **dict.fromkeys(
        ("dreambench++", "dreambench++-deft"),
        {"clip_weights": _CLIP_B32, "dino_weights": _DINO_S8, "dinov2_weights": _DINOV2_S14},
    ),
}
