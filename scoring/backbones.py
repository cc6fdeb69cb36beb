"""The image and text encoders. Each knows its architecture, its weight files and its preprocessing as one thing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image

from .preprocessing import Preprocess
from .weights import find_weights, read_weights

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

Kind = Literal["clip", "dino", "dinov2"]


@dataclass(frozen=True)
class Settings:
    """What belongs to a set of weights and must not drift from it.

    architecture: a model name of open_clip (clip) or timm (dino, dinov2), or the arguments of open_clip's CLIP or
    timm's VisionTransformer. merges: the tokenizer's file, if not CLIP's own.
    """

    architecture: str | dict[str, Any]
    preprocess: Preprocess
    merges: Path | None = None


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is and which files may hold it. The name is written beside each score.

    settings None: a JSON file beside the weights gives them
    ({"open_clip" or "timm": {...}, "preprocess": {...}, "merges": file}).
    """

    name: str
    kind: Kind
    files: tuple[str, ...]
    size: str
    source: str
    settings: Settings | None = None


class Backbone:
    """A loaded encoder: `module` (float32, in evaluation mode) with what it is and how it wants its input."""

    def __init__(self, name: str, kind: Kind, settings: Settings, module: torch.nn.Module) -> None:
        """Use `load_backbone`. A tokenizer comes with CLIP only."""
        self.name, self.kind, self.settings = name, kind, settings
        self.module: Any = module.eval().requires_grad_(False)
        if kind == "clip":
            self.tokenizer = build_tokenizer(settings, self.module.context_length)

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Image.Image], batch: int = 16) -> torch.Tensor:
        """RGB pictures of any sizes -> L2-normalised features, float32 [count, d], on the CPU."""
        encode = self.module.encode_image if self.kind == "clip" else self.module
        device = next(self.module.parameters()).device
        parts = [encode(self.settings.preprocess(pictures[start:start + batch]).to(device)).float().cpu()
                 for start in range(0, len(pictures), batch)]
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], truncate: bool = True) -> torch.Tensor:
        """Texts -> L2-normalised features, float32 [count, d], on the CPU. Only for CLIP.

        Longer texts than the model reads are cut (the end mark stays), or raise ValueError if not `truncate`.
        """
        limit = self.module.context_length
        for text in () if truncate else texts:
            if (length := len(self.tokenizer.encode(text)) + 2) > limit:
                raise ValueError(f"{self.name} reads {limit} tokens, this text has {length}; shorten it: {text}")
        device = next(self.module.parameters()).device
        return F.normalize(self.module.encode_text(self.tokenizer(list(texts)).to(device)).float().cpu(), dim=-1)


def load_backbone(spec: BackboneSpec, folders: Sequence[Path], explicit: Path | None = None) -> Backbone:
    """Find the weights, build the model without the network, and load every tensor.

    Raises FileNotFoundError for missing weights and ValueError for a file of another model.
    """
    path = find_weights(spec, folders, explicit)
    settings = spec.settings or read_settings(spec, path.with_suffix(".json"))
    module = build(spec.kind, settings)
    state = CONVERTERS[spec.kind](read_weights(path), module)
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
              for key in sorted(own.keys() & state.keys()) if own[key].shape != state[key].shape]
    if missing or unknown or shapes:
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
        what = "; ".join(f"{len(keys)} tensors {word}, such as {keys[0]}" for word, keys in parts if keys)
        raise ValueError(f"{path} does not hold {spec.name}: {what}.")
    module.load_state_dict(state)
    return Backbone(spec.name, spec.kind, settings, module)


def read_settings(spec: BackboneSpec, path: Path) -> Settings:
    """The settings in the JSON file beside the weights. Raises FileNotFoundError if it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{spec.name}: the settings file {path} is missing; it belongs beside the weights.")
    settings = json.loads(path.read_text(encoding="utf-8"))
    values = settings["preprocess"]
    return Settings(settings["open_clip" if spec.kind == "clip" else "timm"],
                    Preprocess(values["resize"], values["crop"], tuple(values["mean"]), tuple(values["std"])),
                    path.parent / settings["merges"] if "merges" in settings else None)


def build(kind: Kind, settings: Settings) -> torch.nn.Module:
    """The model with random weights. open_clip and timm are only asked for the architecture: no network."""
    architecture = settings.architecture
    if kind == "clip":
        from open_clip import get_model_config
        from open_clip.model import CLIP

        return CLIP(**(architecture if isinstance(architecture, dict) else get_model_config(architecture)))
    if isinstance(architecture, dict):
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(**architecture)
    from timm import create_model

    return create_model(architecture, pretrained=False, num_classes=0, img_size=settings.preprocess.crop)


def build_tokenizer(settings: Settings, context: int) -> SimpleTokenizer:
    """CLIP's tokenizer, over CLIP's own merges or those of the settings."""
    import gzip
    import io

    from open_clip.tokenizer import SimpleTokenizer

    if settings.merges is None:
        return SimpleTokenizer(context_length=context)
    # open_clip wants the merges gzipped and would take a last line feed for one more token.
    packed = gzip.compress(settings.merges.read_text(encoding="utf-8").strip().encode("utf-8"))
    return SimpleTokenizer(bpe_path=io.BytesIO(packed), context_length=context)


def clip_state(state: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State of open_clip's CLIP from open_clip's own names or from transformers' CLIPModel names."""
    if not any(key.startswith(("vision_model.", "text_model.")) for key in state):
        return state
    result = {}
    for key, value in state.items():
        if key.endswith("position_ids") or re.search(r"\.[kv]_proj\.", key):
            continue
        if "q_proj" in key:
            value = torch.cat([state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        if key in ("visual_projection.weight", "text_projection.weight"):
            value = value.T.contiguous()
        for pattern, name in CLIP_NAMES:
            key = re.sub(pattern, name, key)
        result[key] = value
    return result


# In this order: the general rules last. "pre_layrnorm" is transformers' own spelling.
CLIP_NAMES = (
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.q_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def dino_state(state: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """DINO's original file and timm's have the same names."""
    return state


def dinov2_state(state: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State of timm's VisionTransformer from the original file, timm's, or transformers' Dinov2Model.

    The position embedding is resampled to the model's grid as transformers does: bicubic, no antialias.
    """
    if "embeddings.cls_token" in state:
        state = _dinov2_from_transformers(state)
    state = {key: value for key, value in state.items() if key != "mask_token"}
    if "pos_embed" in state:
        state["pos_embed"] = resample_positions(state["pos_embed"], module.patch_embed.grid_size)
    return state


def _dinov2_from_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    result = {}
    for key, value in state.items():
        if re.search(r"attention\.(key|value)\.", key):
            continue
        if "attention.query" in key:
            value = torch.cat([state[key.replace("query", part)] for part in ("query", "key", "value")])
        for pattern, name in DINOV2_NAMES:
            key = re.sub(pattern, name, key)
        result[key] = value
    return result


DINOV2_NAMES = (
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.query\.", ".attn.qkv."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)


def resample_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Position embedding [1, 1 + n * n, d] -> [1, 1 + rows * columns, d]; the first token is the class token's."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return positions
    square = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


CONVERTERS = {"clip": clip_state, "dino": dino_state, "dinov2": dinov2_state}
