"""DreamBench++'s evaluation loop, written from its description: the peer of `score.py` and a reference of the tests.

The order of yuangpeng/dreambench_plus (dreambench_plus/metrics/clip_score.py and dino_score.py): for each metric in
turn the pairs one by one; both pictures are read from disk and embedded for every pair, and for CLIP-T the text and the
picture. Score: 100 x cosine, mean over the pairs. Weights here are random; both sides load the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class DinoAttention(torch.nn.Module):
    """Softmax attention, step by step as DINO's repository writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.proj = torch.nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, tokens, width] -> the same."""
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class DinoBlock(torch.nn.Module):
    """Norm, attention, norm, two linears with GELU; both halves added to their input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (torch.nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = DinoAttention(width, heads)
        self.mlp = torch.nn.ModuleDict(
            {"fc1": torch.nn.Linear(width, 4 * width), "fc2": torch.nn.Linear(4 * width, width)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, tokens, width] -> the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](torch.nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class Dino(torch.nn.Module):
    """DINO's vision transformer (arXiv 2104.14294) under the names of its files. The feature is the class token."""

    def __init__(self, patch: int, width: int = 384, depth: int = 12, heads: int = 6, side: int = 224) -> None:
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + (side // patch) ** 2, width))
        self.patch_embed = torch.nn.ModuleDict({"proj": torch.nn.Conv2d(3, width, patch, patch)})
        self.blocks = torch.nn.ModuleList(DinoBlock(width, heads) for _ in range(depth))
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, side, side] -> [n, width]."""
        tokens = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights that keep activations alive in every layer, from a generator of their own.

    A million numbers are drawn and used again, each time from another place: drawing takes the longest.
    """
    generator = np.random.default_rng(seed)
    drawn = torch.from_numpy(generator.standard_normal(1_000_003, dtype=np.float32)).repeat(2)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            around = "norm" in name or "ln_" in name or "scale" in name or "lambda" in name
            start, count = int(generator.integers(len(drawn) // 2)), min(parameter.numel(), len(drawn) // 2)
            noise = (0.1 if around else 0.04) * drawn[start : start + count]
            if around and not name.endswith("bias"):
                noise += 1
            for part in parameter.view(-1).split(len(noise)):
                part.copy_(noise[: len(part)])
    return module.eval()


def read_picture(path: Path) -> Image.Image:
    """A file as the loop reads it: turned by EXIF, transparency on white, RGB."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode == "RGBA":
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=picture.split()[3])
        return white
    return picture.convert("RGB")


def unit(features: torch.Tensor) -> torch.Tensor:
    """L2-normalised rows."""
    return features / features.norm(p=2, dim=-1, keepdim=True)


@dataclass
class Loop:
    """The three models with their processors. texts and pictures become normalised features [1, d]."""

    clip: Any
    dino: torch.nn.Module
    dinov2: Any
    clip_processor: Any
    dino_transform: Callable[[Image.Image], torch.Tensor]
    dinov2_processor: Any
    encode: Callable[[str], list[int]]

    @torch.no_grad()
    def clip_image(self, picture: Image.Image) -> torch.Tensor:
        """CLIP's image feature."""
        pixels = torch.as_tensor(self.clip_processor(picture)["pixel_values"][0])[None].float()
        return unit(self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output))

    @torch.no_grad()
    def clip_text(self, text: str) -> torch.Tensor:
        """CLIP's text feature. A text that is too long fails, as in the loop."""
        ids = torch.tensor([[49406, *self.encode(text), 49407]])
        return unit(self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output))

    @torch.no_grad()
    def dino_image(self, picture: Image.Image) -> torch.Tensor:
        """DINO's class token."""
        return unit(self.dino(self.dino_transform(picture)[None]))

    @torch.no_grad()
    def dinov2_image(self, picture: Image.Image) -> torch.Tensor:
        """DINOv2's class token."""
        pixels = torch.as_tensor(self.dinov2_processor(picture)["pixel_values"][0])[None].float()
        return unit(self.dinov2(pixel_values=pixels).last_hidden_state[:, 0])

    def run(self, images: Sequence[Path], references: Sequence[Path], texts: Sequence[str]) -> dict[str, float]:
        """The four scores of matched lists of files and texts, 0 to 100."""
        pairs = list(zip(images, references, strict=True))
        scores = {}
        for name, embed in (("CLIP-I", self.clip_image), ("DINO", self.dino_image), ("DINOv2", self.dinov2_image)):
            similarities = [
                100 * float((embed(read_picture(reference)) * embed(read_picture(image))).sum())
                for image, reference in pairs
            ]
            scores[name] = sum(similarities) / len(similarities)
        similarities = [
            100 * float((self.clip_text(text) * self.clip_image(read_picture(image))).sum())
            for image, text in zip(images, texts, strict=True)
        ]
        return scores | {"CLIP-T": sum(similarities) / len(similarities)}


def make_loop(folder: Path, seed: int = 0) -> Loop:
    """Models of the true sizes with random weights, saved into `folder` in their own formats for the other side.

    clip-vit-base-patch32 and dinov2-small as transformers saves them, dino_deitsmall8_pretrain.pth as DINO does.
    """
    from open_clip.tokenizer import SimpleTokenizer
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    # transformers' defaults are OpenAI's ViT-B/32, but for the id of the end token.
    clip = randomise(CLIPModel(CLIPConfig(text_config={"eos_token_id": 49407, "bos_token_id": 49406})), seed)
    dino = randomise(Dino(8), seed + 1)
    dinov2 = randomise(
        Dinov2Model(
            Dinov2Config(hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14)
        ),
        seed + 2,
    )
    clip.save_pretrained(folder / "clip-vit-base-patch32")
    dinov2.save_pretrained(folder / "dinov2-small")
    torch.save(dino.state_dict(), folder / "dino_deitsmall8_pretrain.pth")
    transform = Compose(
        [Resize(256, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor(), Normalize(*IMAGENET_NORM)]
    )
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        do_center_crop=True,
        image_mean=list(IMAGENET_NORM[0]),
        image_std=list(IMAGENET_NORM[1]),
    )
    return Loop(clip, dino, dinov2, CLIPImageProcessorPil(), transform, processor, SimpleTokenizer().encode)
