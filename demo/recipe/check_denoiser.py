"""How often the demo's CLIP recognises what the demo's denoiser draws for trained captions.

The CLIP was trained on painted compositions, not on the denoiser's pictures.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

from .train_autoencoder import FILE as AUTOENCODER
from .train_autoencoder import new_autoencoder
from .train_denoiser import decoded, new_parts, sample, tokens_of
from .train_scorers import MERGES, clip_settings, new_clip, normalise, tokenizer
from .training import Setup, load_float
from .vocabulary import COLOURS, TRAINED_NAMES, caption


@torch.no_grad()
def report(setup: Setup, depth: int) -> str:
    """Sample trained captions with the written files and say which share is recognised."""
    from ..text_encoder import DemoClipTokenizer

    words, settings = DemoClipTokenizer(), clip_settings(setup.size)
    parts = new_parts(setup, depth, setup.models).eval()
    vae = new_autoencoder(setup.device, setup.models / AUTOENCODER)
    scorer = load_float(new_clip(setup.size), setup.models / "deft_demo_clip.safetensors").to(setup.device).eval()
    tokens = tokenizer(MERGES, settings["open_clip"]["text_cfg"]["context_length"])

    rng, count = random.Random(5), min(setup.checks, len(TRAINED_NAMES))
    pairs = [(name, rng.choice(list(COLOURS))) for name in rng.sample(TRAINED_NAMES, count)]
    prompts, empty = (tokens_of(words, texts).to(setup.device) for texts in ([caption(*pair) for pair in pairs], [""]))
    pictures = decoded(vae, sample(parts, prompts, empty, seed=3, side=setup.size // 8))
    images = F.normalize(scorer.encode_image(normalise(pictures, settings["preprocess"])), dim=-1)

    def is_nearest(index: int, captions: list[str]) -> bool:
        """Whether the first caption is the nearest one."""
        texts = F.normalize(scorer.encode_text(tokens(captions).to(setup.device)), dim=-1)
        return bool((texts @ images[index]).argmax() == 0)

    among_32, objects, colours = [], [], []
    every = [(name, colour) for name in TRAINED_NAMES for colour in COLOURS]
    for index, (name, colour) in enumerate(pairs):
        right = caption(name, colour)
        wrong_pairs = rng.sample([pair for pair in every if pair != (name, colour)], 31)
        among_32.append(is_nearest(index, [right, *(caption(*pair) for pair in wrong_pairs)]))
        objects.append(
            is_nearest(index, [right, *(caption(other, colour) for other in TRAINED_NAMES if other != name)])
        )
        colours.append(is_nearest(index, [right, *(caption(name, other) for other in COLOURS if other != colour)]))
    shares = (
        f"right {what} {100 * sum(hits) / len(hits):.0f} %"
        for what, hits in (
            ("caption among 32", among_32),
            (f"object among {len(TRAINED_NAMES)}", objects),
            (f"colour among {len(COLOURS)}", colours),
        )
    )
    return f"denoiser: of {count} pictures {', '.join(shares)}"
