"""CLIP by open_clip: any of its architectures, from open_clip's, OpenAI's or transformers' files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..packages import needed_by
from .base import Backbone, BackboneSpec, EncoderSettings, WeightFile, load_state, renamed

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """CLIP with both towers, or without a text encoder if the file has none."""
    module = build(settings)
    state = clip_state(state)
    reads_text = any("token_embedding" in key for key in state)
    tower = module if reads_text else torch.nn.ModuleDict({"visual": module.visual})
    load_state(tower, state, path, spec.name)
    context = module.context_length
    tokenizer = build_tokenizer(settings, context) if reads_text else None
    if tokenizer is not None and tokenizer.vocab_size > module.vocab_size:
        raise ValueError(
            f"{path} has {module.vocab_size} tokens, and its tokenizer {tokenizer.vocab_size}: they do not belong "
            "together."
        )
    return Backbone.of(
        spec,
        settings,
        tower,
        weights,
        encode_image=module.encode_image,
        encode_text=module.encode_text if reads_text else None,
        tokenizer=tokenizer,
        context=context,
    )


def build(settings: EncoderSettings) -> torch.nn.Module:
    """The model with random weights. open_clip is only asked for the architecture: no network.

    Raises ValueError for a name that open_clip does not know.
    """
    with needed_by("CLIP"):
        from open_clip import get_model_config
        from open_clip.model import CLIP, CustomTextCLIP

    architecture = settings.architecture
    if isinstance(architecture, str):
        config = get_model_config(architecture)
        if config is None:
            raise ValueError(f"open_clip has no model {architecture!r}; see open_clip.list_models().")
        if "hf_model_name" in config.get("text_cfg", {}):
            raise ValueError(
                f"{architecture} reads text with a model of Hugging Face's, which this pack does not load;"
                " choose a CLIP whose text encoder is open_clip's own."
            )
        config = {name: value for name, value in config.items() if name not in ("custom_text", "multimodal_cfg")}
        custom = get_model_config(architecture).get("custom_text", False)
        return (CustomTextCLIP if custom else CLIP)(**config)
    return CLIP(**architecture)


def build_tokenizer(settings: EncoderSettings, context: int) -> SimpleTokenizer:
    """CLIP's tokenizer, over CLIP's own merges or those of the settings."""
    import gzip
    import io

    from open_clip.tokenizer import SimpleTokenizer

    if settings.merges is None:
        return _clips_own(context)
    # open_clip takes the merges gzipped and would take a last line feed for one more token.
    try:
        packed = gzip.compress(settings.merges.read_text(encoding="utf-8-sig").strip().encode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{settings.merges} cannot be read as the tokenizer's file ({error}).") from error
    return SimpleTokenizer(bpe_path=io.BytesIO(packed), context_length=context)


@cache
def _clips_own(context: int) -> SimpleTokenizer:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context)


def clip_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State of open_clip's CLIP from its own names, OpenAI's (three numbers more) or transformers' CLIPModel's."""
    if not any(key.startswith(("vision_model.", "text_model.")) for key in state):
        return {
            key: value
            for key, value in state.items()
            if key not in ("input_resolution", "context_length", "vocab_size")
        }
    projections = ("visual_projection.weight", "text_projection.weight")
    own = {
        key: value.T.contiguous() if key in projections else value
        for key, value in state.items()
        if not key.endswith("position_ids")
    }
    return renamed(own, _NAMES, ".{}_proj.", "qkv")


# In this order: the general rules last. "pre_layrnorm" is transformers' own spelling.
_NAMES = (
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
