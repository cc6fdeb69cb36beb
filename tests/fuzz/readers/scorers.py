"""Weight files of scorers and the JSON files beside them: a small encoder is built, and scores a picture."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from ..kit import Files, Reader
from ..structures import encoded, near, safetensors, tensor
from .pickled import saved

WEIGHTS, PICKLED, SETTINGS = "small.safetensors", "small.pth", "small.json"
PREPROCESS = {"resize": 16, "crop": 16, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
DINO: dict[str, Any] = {
    "kind": "dino",
    "timm": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0},
    "preprocess": PREPROCESS,
    "checks": [{"pixels": 0.5, "features": [0.1, 0.2], "source": "x"}],
}
CLIP: dict[str, Any] = {
    "kind": "clip",
    "open_clip": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 520, "width": 16, "heads": 2, "layers": 1},
    },
    "merges": "merges.txt",
    "preprocess": PREPROCESS,
}
MERGES = b"#version: 0.2\na b\nc d</w>\n"


@functools.cache
def valid(kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The settings and the tensors of a small encoder."""
    from open_clip.model import CLIP as Clip
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    if kind == "dino":
        return DINO, dict(VisionTransformer(**DINO["timm"]).state_dict())
    return CLIP, dict(Clip(**CLIP["open_clip"]).state_dict())


def samples() -> list[Files]:
    """Encoders of both kinds, in both forms of files."""
    result = []
    for kind in ("dino", "clip"):
        settings, tensors = valid(kind)
        beside = {SETTINGS: encoded(settings), "merges.txt": MERGES}
        result += [{WEIGHTS: safetensors(tensors), **beside}, {PICKLED: saved(tensors), **beside}]
    return result


@st.composite
def structures(draw: Any) -> Files:
    """Settings or tensors near valid ones."""
    settings, tensors = valid(draw(st.sampled_from(("dino", "dino", "clip"))))
    tensors = dict(tensors)
    if draw(st.sampled_from((True, True, False))):
        settings = draw(near(settings))
    else:
        key = draw(st.sampled_from(list(tensors)))
        old = tensors.pop(key)
        if draw(st.booleans()):
            tensors[key] = draw(tensor(tuple(old.shape)))
    name = draw(st.sampled_from((WEIGHTS, WEIGHTS, PICKLED)))
    content = (
        safetensors(tensors) if name == WEIGHTS else saved(draw(st.sampled_from((tensors, {"state_dict": tensors}))))
    )
    return {name: content, SETTINGS: encoded(settings), "merges.txt": MERGES}


def use(folder: Path) -> None:
    """Load it as `python -m scoring verify` does, and as a node does; encode a picture, and a text."""
    from PIL import Image

    from deft_pack.scoring.verify import load_file

    path = next(file for file in (folder / WEIGHTS, folder / PICKLED) if file.exists())
    backbone = load_file(path)
    backbone.encode_pixels(backbone.preprocess(Image.new("RGB", (20, 30), (9, 99, 200)))[None])
    if backbone.reads_text:
        backbone.encode_texts(["ab cd"])


READER = Reader("scorers", samples, structures, use)
