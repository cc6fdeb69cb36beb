"""Small CLIPs for transformers, open_clip and ComfyUI: of the published vocabulary, with few and narrow layers."""

from __future__ import annotations

from typing import Any

VOCABULARY = 49408
# What transformers' text model has to be told of CLIP's tokens: its default end token is another one.
TOKENS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 77,
    "bos_token_id": VOCABULARY - 2,
    "eos_token_id": VOCABULARY - 1,
}


def clip_sizes(side: int, patch: int, width: int, layers: int, act: str) -> tuple[Any, dict[str, Any]]:
    """The same CLIP as transformers' CLIPConfig and as open_clip's model_cfg, which leaves the activation out.

    side, patch: pixels of a picture and of a patch. width, layers: of the image encoder, which has two heads. The text
    encoder is always the same. act: transformers' hidden_act of both, "quick_gelu" or "gelu".
    """
    from transformers import CLIPConfig

    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": patch,
    }
    config = CLIPConfig(
        text_config=text | TOKENS | {"hidden_act": act},
        vision_config=vision | {"hidden_act": act},
        projection_dim=48,
    )
    return config, {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": side,
            "patch_size": patch,
            "layers": layers,
            "width": width,
            "head_width": width // 2,
        },
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": 64, "heads": 4, "layers": 2},
    }
