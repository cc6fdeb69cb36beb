"""The demo's text encoder: a small CLIP text model behind ComfyUI's own CLIP object.

ComfyUI's loaders know CLIP text encoders by their full size only; this one has 16 positions, 192 channels, 2 layers and
a vocabulary cut down to what short captions need (see recipe/make_tokenizer.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.utils
from comfy.supported_models_base import ClipTarget

_TOKENIZER = Path(__file__).parent / "models" / "tokenizer"
CONTEXT_LENGTH = 16  # tokens with start and end; longer prompts become several chunks, as ComfyUI does with 77
WIDTH = 192


def vocabulary_size() -> int:
    """Number of tokens in the demo's vocabulary."""
    return len(json.loads((_TOKENIZER / "vocab.json").read_text(encoding="utf-8")))


class DemoTokenizer(comfy.sd1_clip.SDTokenizer):
    """CLIP's byte pair encoding with the demo's short merge list."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None) -> None:
        super().__init__(
            str(_TOKENIZER),
            max_length=CONTEXT_LENGTH,
            embedding_directory=embedding_directory,
            embedding_size=WIDTH,
            embedding_key="clip_l",
            tokenizer_data=tokenizer_data or {},
        )


class DemoClipTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The tokenizer that ComfyUI's CLIP object asks."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict | None = None) -> None:
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=DemoTokenizer)


class DemoTextModel(comfy.sd1_clip.SDClipModel):
    """CLIP text model of the demo's size; the pooled output is the unprojected state at the end token."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None) -> None:
        size = vocabulary_size()
        start, end = size - 2, size - 1
        config = {
            "hidden_size": WIDTH,
            "num_attention_heads": 3,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": 2,
            "hidden_act": "quick_gelu",
            "max_position_embeddings": CONTEXT_LENGTH,
            "eos_token_id": end,
        }
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=CONTEXT_LENGTH,
            textmodel_json_config=config,
            special_tokens={"start": start, "end": end, "pad": end},
            return_projected_pooled=False,
            model_options=model_options or {},
        )
        # ComfyUI's class always makes CLIP's 49408 rows.
        self.transformer.set_input_embeddings(self.operations.Embedding(size, WIDTH, dtype=dtype, device=device))


class DemoClipModel(comfy.sd1_clip.SD1ClipModel):
    """The text encoder as ComfyUI's CLIP object holds it."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None) -> None:
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=DemoTextModel)


def load(path: str, embedding_directory: Any = None) -> comfy.sd.CLIP:
    """Read the demo's text encoder file into a ComfyUI CLIP object.

    Raises:
        ValueError: the file does not hold this text encoder.
    """
    state = comfy.utils.load_torch_file(path, safe_load=True)
    embedding = state.get("text_model.embeddings.token_embedding.weight")
    if embedding is None or tuple(embedding.shape) != (vocabulary_size(), WIDTH):
        raise ValueError(f"{Path(path).name} is not the demo's text encoder; use ComfyUI's Load CLIP for other files.")
    target = ClipTarget(DemoClipTokenizer, DemoClipModel)
    return comfy.sd.CLIP(target, embedding_directory=embedding_directory, state_dict=[state])
