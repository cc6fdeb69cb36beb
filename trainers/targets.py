"""Which layers of a model an adapter is put on."""

from __future__ import annotations

import re

from torch import nn

from .frozen import is_frozen_kind

# Path parts that mean attention or feed-forward in ComfyUI's models.
_ATTENTION = re.compile(r"(^|\.)(attn\d?|attn_[a-z]+|self_attn|cross_attn|attention|[a-z]+_attn|linear1|linear2)(\.|$)")
_CROSS = re.compile(r"(^|\.)(attn2|cross_attn|context_block|txt_attn)(\.|$)")
_FEED_FORWARD = re.compile(r"(^|\.)(?<!embedder\.)(ff|mlp|ffn|feed_forward|img_mlp|txt_mlp)(\.|$)")
_PAPER = re.compile(r"\.(to_q|to_k|to_v|to_out\.0|qkv|attn\.proj)$")

PRESETS = {
    "attention": "every projection of the attention layers",
    "attention without cross-attention": "attention, but not where pictures look at text (PaRa's best choice)",
    "paper (to_q, to_k, to_v, to_out.0)": "the four projections that DEFT's SDXL code trains, or their fused forms",
    "attention and feed-forward": "attention and the layers between",
    "all linear": "every linear layer",
    "all linear and convolution": "every linear layer and every 2-D convolution",
}


def wanted(name: str, module: nn.Module, preset: str) -> bool:
    """Whether the preset takes this layer."""
    if preset == "all linear and convolution":
        return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    if not isinstance(module, nn.Linear):
        return False
    if preset == "all linear":
        return True
    if preset.startswith("paper"):
        return bool(_PAPER.search(name))
    attention = bool(_ATTENTION.search(name))
    if preset == "attention":
        return attention
    if preset == "attention without cross-attention":
        return attention and not _CROSS.search(name)
    if preset == "attention and feed-forward":
        return attention or bool(_FEED_FORWARD.search(name))
    raise ValueError(f"Unknown choice of layers {preset!r}: choose one of {', '.join(PRESETS)}.")


def select(root: nn.Module, preset: str, pattern: str = "") -> dict[str, nn.Module]:
    """The layers of `root` by path that the preset takes and, if given, the regular expression finds.

    Raises:
        ValueError: an unknown preset, a pattern that is no regular expression, or no layer left.
    """
    try:
        keep = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"The layer pattern {pattern!r} is not a regular expression: {error}.") from error
    layers = {
        name: module
        for name, module in root.named_modules()
        if is_frozen_kind(module) and wanted(name, module, preset) and keep.search(name)
    }
    if not layers:
        kinds = sorted({name.rpartition(".")[2] for name, module in root.named_modules() if is_frozen_kind(module)})
        raise ValueError(
            f"No layer of {type(root).__name__} is left by {preset!r} and pattern {pattern!r}: "
            f"its layers end in {', '.join(kinds[:20])}."
        )
    return layers
