"""Say how often the demo's CLIP recognises what the demo's denoiser draws for trained captions.

    python -m demo.recipe.check_denoiser --comfyui DIR

The CLIP was trained on painted compositions, not on the denoiser's pictures.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F

from .train_autoencoder import LATENT_CHANNELS, SD3_SCALE, SD3_SHIFT, use_comfyui
from .train_denoiser import build, sample, tokens_of
from .train_scorers import CLIP, MODELS, normalise, tokenizer
from .vocabulary import COLOURS, TRAINED, caption


def filled(model: torch.nn.Module, file: Path) -> torch.nn.Module:
    """The model with the file's weights in float32."""
    from safetensors.torch import load_file

    model.load_state_dict({key: value.float() for key, value in load_file(file).items()}, strict=False)
    return model.eval()


@torch.no_grad()
def main() -> None:
    """Read the command line, sample and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--count", type=int, default=96)
    args = parser.parse_args()
    use_comfyui(args.comfyui)
    from comfy.taesd.taesd import TAESD
    from open_clip.model import CLIP as ClipModel

    from ..text_encoder import DemoClipModel, DemoClipTokenizer

    clip, words = DemoClipModel(), DemoClipTokenizer()
    text = filled(clip.clip_l.transformer, MODELS / "deft_demo_text_encoder.safetensors")
    model = filled(build(clip), MODELS / "diffusion_models" / "deft_demo_denoiser.safetensors")
    vae = filled(TAESD(latent_channels=LATENT_CHANNELS), MODELS / "vae" / "deft_demo_vae.safetensors")
    scorer = filled(ClipModel(**CLIP["open_clip"]), MODELS / "deft_demo_clip.safetensors")
    tokens = tokenizer(MODELS / CLIP["merges"], CLIP["open_clip"]["text_cfg"]["context_length"])

    rng = random.Random(5)
    pairs = [(name, rng.choice(list(COLOURS))) for name in rng.sample(TRAINED, args.count)]
    prompts = tokens_of(words, [caption(*pair) for pair in pairs])
    latents = sample(model, text, prompts, tokens_of(words, [""]), seed=3)
    pictures = vae.decode(latents / SD3_SCALE + SD3_SHIFT).add(1).div(2).clamp(0, 1)
    images = F.normalize(scorer.encode_image(normalise(pictures, CLIP["preprocess"])), dim=-1)

    def is_nearest(index: int, captions: list[str]) -> bool:
        """Whether the first caption is the nearest one."""
        return bool((F.normalize(scorer.encode_text(tokens(captions)), dim=-1) @ images[index]).argmax() == 0)

    among_32, objects, colours = [], [], []
    every = [(name, colour) for name in TRAINED for colour in COLOURS]
    for index, (name, colour) in enumerate(pairs):
        right = caption(name, colour)
        wrong_pairs = rng.sample([pair for pair in every if pair != (name, colour)], 31)
        among_32.append(is_nearest(index, [right, *(caption(*pair) for pair in wrong_pairs)]))
        objects.append(is_nearest(index, [right, *(caption(other, colour) for other in TRAINED if other != name)]))
        colours.append(is_nearest(index, [right, *(caption(name, other) for other in COLOURS if other != colour)]))
    for what, hits in (
        ("caption among 32", among_32),
        (f"object among {len(TRAINED)}", objects),
        (f"colour among {len(COLOURS)}", colours),
    ):
        print(f"right {what}: {100 * sum(hits) / len(hits):.0f} % of {len(hits)} pictures")


if __name__ == "__main__":
    main()
