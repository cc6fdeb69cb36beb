"""Train the demo's two scorers and write them as the pack's scoring reads them (a weight file and its JSON).

    python -m demo.recipe.train_scorers --assets DIR --which dino --minutes 15
    python -m demo.recipe.train_scorers --assets DIR --which clip --minutes 15

`dino` is a small vision transformer (timm) whose class token tells objects apart whatever the background and the
pose. `clip` is a small open_clip model with an image and a text tower. Neither sees an object of HELD_OUT.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .compose import SIZE, asset_files, compose, cutout
from .vocabulary import COLOURS, HELD_OUT, TRAINED, UNICODE_NAMES, caption

MODELS = Path(__file__).parent.parent / "models"
DINO = {
    "kind": "dino",
    "timm": {"img_size": SIZE, "patch_size": 8, "embed_dim": 192, "depth": 4, "num_heads": 3, "num_classes": 0},
    "preprocess": {"resize": SIZE, "crop": SIZE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
CLIP = {
    "kind": "clip",
    "open_clip": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE, "patch_size": 8, "layers": 4, "width": 160, "head_width": 32},
        "text_cfg": {"context_length": 16, "vocab_size": 1456, "width": 128, "heads": 4, "layers": 2},
    },
    "merges": "tokenizer/merges.txt",
    "preprocess": {
        "resize": SIZE,
        "crop": SIZE,
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}


def layer(assets: Path, name: str, rng: random.Random) -> Image.Image:
    """The object alone, RGBA [64, 64]: random size, place and rotation, nothing behind it."""
    item = cutout(assets, name).rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC, expand=True)
    item = item.crop(item.getchannel("A").getbbox())
    factor = rng.uniform(0.55, 0.95) * SIZE / max(item.size)
    item = item.resize(
        (max(1, round(item.width * factor)), max(1, round(item.height * factor))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    canvas.paste(item, (rng.randint(0, SIZE - item.width), rng.randint(0, SIZE - item.height)))
    return canvas


def layers(assets: Path, names: Sequence[str], views: int, seed: int) -> torch.Tensor:
    """uint8 [names, views, 4, 64, 64]: colours multiplied by their alpha, and alpha."""
    rng = random.Random(seed)
    result = np.empty((len(names), views, SIZE, SIZE, 4), dtype=np.uint8)
    for row, name in enumerate(names):
        for view in range(views):
            rgba = np.asarray(layer(assets, name, rng)).astype(np.uint16)
            rgba[..., :3] = rgba[..., :3] * rgba[..., 3:] // 255
            result[row, view] = rgba
    return torch.from_numpy(result).permute(0, 1, 4, 2, 3).contiguous()


def uniform(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers of a shape."""
    return torch.rand(tuple(shape), generator=generator) * (high - low) + low


def paint(rows: torch.Tensor, colours: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Put layers uint8 [b, 4, h, w] on varied colours [b, 3] (0..255), then flip, blur and add noise to some: 0..1."""
    count, size = len(rows), rows.shape[-1]
    base = (colours + uniform((count, 3), -16, 16, generator)).clamp(0, 255)
    # A third of the backgrounds fades to another colour: generated pictures are never as plain as painted ones.
    other = torch.where(
        torch.rand(count, 1, generator=generator) < 0.33, base + uniform((count, 3), -60, 60, generator), base
    ).clamp(0, 255)
    ramp = torch.linspace(0, 1, size)[None, None, :, None]
    background = (base[..., None, None] * (1 - ramp) + other[..., None, None] * ramp).expand(-1, -1, -1, size)
    x = (rows[:, :3].float() + background * (1 - rows[:, 3:].float() / 255)) / 255
    x = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.3, soft, x)
    return (
        x + 0.03 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    ).clamp(0, 1)


def normalise(x: torch.Tensor, preprocess: dict) -> torch.Tensor:
    """Subtract the mean and divide by the deviation of each colour channel."""
    mean, std = (torch.tensor(preprocess[key])[None, :, None, None] for key in ("mean", "std"))
    return (x - mean) / std


def palette() -> torch.Tensor:
    """The background colours [12, 3], 0..255, in the order of COLOURS."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32)


def schedule(optimizer: torch.optim.Optimizer, minutes: float, peak: float) -> Iterator[tuple[int, float]]:
    """Yield (step, fraction done) until the time is over; warm-up of 100 steps, then a cosine to 1 % of the peak."""
    started, step = time.monotonic(), 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        yield step, done
        step += 1


def train_dino(assets: Path, minutes: float, out: Path) -> None:
    """Cosine classifier over all emoji names but the held-out ones, and supervised contrast of two views of each."""
    from timm.models.vision_transformer import VisionTransformer

    held_out = {UNICODE_NAMES.get(name, name) for name in HELD_OUT}
    names = [name for name in asset_files(assets) if name not in held_out]
    data = layers(assets, names, views=8, seed=11)
    print(f"{len(names)} objects, {data.shape[1]} views each", flush=True)
    torch.manual_seed(11)
    generator = torch.Generator().manual_seed(11)
    # Leaving out patches makes a step cheaper and the class token less dependent on a single part.
    model = VisionTransformer(**DINO["timm"], patch_drop_rate=0.5)
    proxies = torch.nn.Parameter(torch.randn(len(names), DINO["timm"]["embed_dim"]) * 0.05)
    optimizer = torch.optim.AdamW([*model.parameters(), proxies], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    objects, colours, smooth = 48, palette(), None
    for step, done in schedule(optimizer, minutes, peak=1.5e-3):
        if done > 0.75:
            model.patch_drop = torch.nn.Identity()
        labels = torch.randperm(len(names), generator=generator)[:objects].repeat(2)
        views = torch.randint(data.shape[1], (len(labels),), generator=generator)
        colour = colours[torch.randint(len(colours), (len(labels),), generator=generator)]
        x = normalise(paint(data[labels, views], colour, generator), DINO["preprocess"])
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y = F.normalize(y.float(), dim=-1)
        classify = F.cross_entropy(20 * y @ F.normalize(proxies, dim=-1).T, labels)
        pairs = (y @ y.T / 0.1).fill_diagonal_(float("-inf"))
        contrast = F.cross_entropy(pairs, torch.arange(len(y)).roll(objects))
        loss = classify + contrast
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = torch.tensor([classify.item(), contrast.item()])
        smooth = value if smooth is None else 0.97 * smooth + 0.03 * value
        if step % 50 == 0:
            print(f"step {step}, {100 * done:.0f} %, classify {smooth[0]:.3f}, contrast {smooth[1]:.3f}", flush=True)
    store(model, DINO, out / "deft_demo_dino")
    report_dino(model.eval(), assets)


def tokenizer(merges: Path, context: int) -> Callable[[Sequence[str]], torch.Tensor]:
    """open_clip's tokenizer over the demo's own merges (it wants them gzipped and without a last line feed)."""
    from open_clip.tokenizer import SimpleTokenizer

    packed = gzip.compress(merges.read_text(encoding="utf-8").strip().encode("utf-8"))
    return SimpleTokenizer(bpe_path=io.BytesIO(packed), context_length=context)


def unseen_pairs() -> set[tuple[str, str]]:
    """A tenth of all (name, colour) pairs: kept out of training, to see whether the two are distinguished."""
    pairs = [(name, colour) for name in TRAINED for colour in COLOURS]
    return set(random.Random(3).sample(pairs, len(pairs) // 10))


def wording(name: str, colour: str, rng: random.Random) -> str:
    """The caption of the picture, now and then in other words."""
    text, choice = caption(name, colour), rng.random()
    if choice < 0.75:
        return text
    if choice < 0.85:
        return f"a photo of {text}"
    if choice < 0.95:
        return text.replace(f" {name}", f" sks {name}", 1)
    return f"a {name}"


def train_clip(assets: Path, minutes: float, out: Path) -> None:
    """CLIP's symmetric contrastive loss on pictures of TRAINED and their captions; equal captions do not compete."""
    from open_clip.model import CLIP as Model

    data = layers(assets, TRAINED, views=24, seed=13)
    print(f"{len(TRAINED)} objects, {data.shape[1]} views each", flush=True)
    torch.manual_seed(13)
    generator, rng = torch.Generator().manual_seed(13), random.Random(13)
    settings = CLIP["open_clip"]
    model = Model(**settings | {"vision_cfg": settings["vision_cfg"] | {"patch_dropout": 0.5}})
    tokens = tokenizer(MODELS / CLIP["merges"], settings["text_cfg"]["context_length"])
    # Biases, norms and the temperature are not decayed, as in CLIP.
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
    unseen, names, colours, smooth = unseen_pairs(), list(COLOURS), palette(), None
    pairs = [(i, j) for i, name in enumerate(TRAINED) for j, colour in enumerate(names) if (name, colour) not in unseen]
    for step, done in schedule(optimizer, minutes, peak=1.5e-3):
        if done > 0.75:
            model.visual.patch_dropout = torch.nn.Identity()
        chosen = [pairs[rng.randrange(len(pairs))] for _ in range(112)]
        texts = tokens([wording(TRAINED[i], names[j], rng) for i, j in chosen])
        labels = torch.tensor([i for i, _ in chosen])
        views = torch.randint(data.shape[1], (len(labels),), generator=generator)
        colour = colours[torch.tensor([j for _, j in chosen])]
        x = normalise(paint(data[labels, views], colour, generator), CLIP["preprocess"])
        with torch.autocast("cpu", torch.bfloat16):
            image, text = model.encode_image(x), model.encode_text(texts)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = model.logit_scale.clamp(max=math.log(50)).exp() * image @ text.T
        codes = torch.tensor([i * len(names) + j for i, j in chosen])
        twins = (codes[:, None] == codes[None]) & ~torch.eye(len(codes), dtype=torch.bool)
        logits, target = logits.masked_fill(twins, float("-inf")), torch.arange(len(codes))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.97 * smooth + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"step {step}, {100 * done:.0f} %, loss {smooth:.3f}", flush=True)
    store(model, CLIP, out / "deft_demo_clip")
    report_clip(model.eval(), tokens, assets)


@torch.no_grad()
def report_clip(
    model: torch.nn.Module, tokens: Callable[[Sequence[str]], torch.Tensor], assets: Path, count: int = 600
) -> None:
    """Print how often the right caption of 32 is retrieved for new pictures of (name, colour) pairs never trained."""
    rng, names = random.Random(7), list(COLOURS)
    pairs = rng.sample(sorted(unseen_pairs()), min(count, len(unseen_pairs())))
    rows = np.stack([np.asarray(compose(assets, name, colour, rng)) for name, colour in pairs])
    x = normalise(torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 255, CLIP["preprocess"])
    image = F.normalize(model.encode_image(x), dim=-1)
    every = [(name, colour) for name in TRAINED for colour in names]
    text = F.normalize(model.encode_text(tokens([caption(*pair) for pair in every])), dim=-1)
    row, cosines = {pair: i for i, pair in enumerate(every)}, image @ text.T

    def right(index: int, wrong_pairs: list[tuple[str, str]]) -> bool:
        line = cosines[index]
        return bool(line[row[pairs[index]]] > max(line[row[pair]] for pair in wrong_pairs))

    plain = [right(i, rng.sample([p for p in every if p != pair], 31)) for i, pair in enumerate(pairs)]
    hard = [
        right(
            i,
            [(name, c) for c in names if c != colour]
            + [(n, colour) for n in rng.sample([n for n in TRAINED if n != name], 20)],
        )
        for i, (name, colour) in enumerate(pairs)
    ]
    print(
        f"right caption of 32 for {len(pairs)} new compositions: {100 * sum(plain) / len(plain):.1f} % among random "
        f"captions, {100 * sum(hard) / len(hard):.1f} % among captions with the same name or colour",
        flush=True,
    )


def store(model: torch.nn.Module, settings: dict, path: Path) -> None:
    """Write the weights in fp16 and the settings beside them."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().to(torch.float16).contiguous()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    save_file(state, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").chmod(0o644)  # safetensors makes it private
    path.with_suffix(".json").write_text(json.dumps(settings, indent=2) + "\n")


def compositions(assets: Path, names: Sequence[str], each: int, seed: int) -> torch.Tensor:
    """New pictures 0..1 [names * each, 3, 64, 64], each name on `each` different colours."""
    rng = random.Random(seed)
    rows = [
        np.asarray(compose(assets, name, colour, rng)) for name in names for colour in rng.sample(list(COLOURS), each)
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def report_dino(model: torch.nn.Module, assets: Path, each: int = 8) -> None:
    """Print how alike two compositions of one held-out object are, and of two different ones."""
    x = compositions(assets, HELD_OUT, each, seed=5)
    y = F.normalize(model(normalise(x, DINO["preprocess"])), dim=-1)
    labels = torch.arange(len(HELD_OUT)).repeat_interleave(each)
    cosines, same = y @ y.T, labels[:, None] == labels[None]
    other = ~torch.eye(len(y), dtype=torch.bool)
    nearest = cosines.masked_fill(~other, -2).argmax(1)
    print(
        f"held-out objects: same {cosines[same & other].mean():.3f}, different {cosines[~same].mean():.3f}, "
        f"nearest picture shows the same object {100 * (labels[nearest] == labels).float().mean():.1f} %",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder with the .webp renders")
    parser.add_argument("--which", choices=("dino", "clip"), required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path, default=MODELS)
    args = parser.parse_args()
    {"dino": train_dino, "clip": train_clip}[args.which](args.assets, args.minutes, args.out)


if __name__ == "__main__":
    main()
