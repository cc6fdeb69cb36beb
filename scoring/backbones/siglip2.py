"""SigLIP 2 (arXiv 2502.14786) by open_clip, from open_clip's files or transformers', with Gemma's tokenizer beside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..packages import needed_by
from ..weights import checksum, companion
from .base import Backbone, BackboneSpec, EncoderSettings, HubFile, WeightFile, load_state, renamed

_TOKENIZER = "tokenizer.json"
PAD = 0


def load(
    spec: BackboneSpec, settings: EncoderSettings, state: dict[str, torch.Tensor], path: Path, weights: WeightFile
) -> Backbone:
    """Load both towers. Raises ValueError for a tokenizer that is another model's."""
    module = build(settings)
    load_state(module, siglip_state(state), path, spec.name)
    file = companion(path, _TOKENIZER)
    tokenizer = Tokenizer(file, module.text.context_length)
    if tokenizer.size != module.text.vocab_size:
        raise ValueError(
            f"{path} has {module.text.vocab_size} tokens, and {file.name} beside it {tokenizer.size}: they do not "
            f"belong together; get {_TOKENIZER} of the same model."
        )
    return Backbone.of(
        spec,
        settings,
        module,
        weights,
        fingerprint=f"{weights.sha256} {checksum(file)}",
        encode_image=module.encode_image,
        encode_text=module.encode_text,
        tokenizer=tokenizer,
        context=module.text.context_length,
        marks=1,
    )


def build(settings: EncoderSettings) -> Any:
    """The model with random weights. open_clip is only asked for the architecture: no network."""
    with needed_by("SigLIP2"):
        from open_clip import get_model_config
        from open_clip.model import CustomTextCLIP

    architecture = settings.architecture
    config = get_model_config(architecture) if isinstance(architecture, str) else architecture
    module = CustomTextCLIP(**{name: value for name, value in config.items() if name != "custom_text"})
    # The authors' code approximates GELU by tanh in both towers; open_clip does so in the text tower only.
    for parent in module.visual.modules():
        if isinstance(getattr(parent, "act", None), torch.nn.GELU):
            parent.act = torch.nn.GELU(approximate="tanh")
    return module


class Tokenizer:
    """Gemma's tokenizer from its file: lower case, an end mark, filled up to the context as SigLIP 2 was trained."""

    def __init__(self, path: Path, context: int) -> None:
        """Raises ValueError for a file that is none."""
        with needed_by("SigLIP2"):
            import tokenizers

        try:
            self._plain, self._filled = (tokenizers.Tokenizer.from_file(str(path)) for _ in range(2))
        except Exception as error:  # the package raises plain Exceptions
            raise ValueError(f"{path} cannot be read as the tokenizer's file ({error}); get it again.") from error
        self._plain.no_truncation()
        self._plain.no_padding()
        self._filled.enable_truncation(context)
        self._filled.enable_padding(length=context, pad_id=PAD, direction="right")
        self.size = self._plain.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without the end mark."""
        return list(self._plain.encode(text.lower(), add_special_tokens=False).ids)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> tokens [count, context]."""
        return torch.tensor([self._filled.encode(text.lower()).ids for text in texts])


def siglip_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State of open_clip's CustomTextCLIP from its own names, or those of transformers' SiglipModel."""
    if not any(key.startswith(("vision_model.", "text_model.")) for key in state):
        return state
    own = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        if key == "vision_model.embeddings.position_embedding.weight":
            value = value[None]
        if match := re.fullmatch(r"vision_model\.head\.attention\.in_proj_(weight|bias)", key):
            rows = len(value) // 3
            own[f"visual.trunk.attn_pool.q.{match.group(1)}"] = value[:rows]
            own[f"visual.trunk.attn_pool.kv.{match.group(1)}"] = value[rows:]
            continue
        if key in ("logit_scale", "logit_bias"):
            value = value.reshape(())
        own[key] = value
    return renamed(own, _NAMES, ".self_attn.{}_proj.", "qkv")


# In this order: the general rules last.
_NAMES = (
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.trunk.patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.trunk.pos_embed"),
    (r"^vision_model\.post_layernorm\.", "visual.trunk.norm."),
    (r"^vision_model\.head\.probe$", "visual.trunk.attn_pool.latent"),
    (r"^vision_model\.head\.attention\.out_proj\.", "visual.trunk.attn_pool.proj."),
    (r"^vision_model\.head\.layernorm\.", "visual.trunk.attn_pool.norm."),
    (r"^vision_model\.head\.mlp\.", "visual.trunk.attn_pool.mlp."),
    (r"^text_model\.embeddings\.token_embedding\.", "text.token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "text.ln_final."),
    (r"^text_model\.head\.", "text.text_projection."),
    (r"^(vision_model\..*)\.layer_norm([12])\.", r"\1.norm\2."),
    (r"^(vision_model\..*)\.self_attn\.q_proj\.", r"\1.attn.qkv."),
    (r"^(vision_model\..*)\.self_attn\.out_proj\.", r"\1.attn.proj."),
    (r"^vision_model\.encoder\.layers\.", "visual.trunk.blocks."),
    (r"^text_model\.encoder\.layers\.", "text.transformer.resblocks."),
    (r"\.self_attn\.q_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"^(text\..*)\.mlp\.fc1\.", r"\1.mlp.c_fc."),
    (r"^(text\..*)\.mlp\.fc2\.", r"\1.mlp.c_proj."),
)


def tokenizer_of(repository: str) -> HubFile:
    """The tokenizer's file of a repository."""
    return HubFile(repository, _TOKENIZER)
