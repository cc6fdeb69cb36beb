"""The demo's two scorers, as the pack's scoring reads them: a weight file and its JSON.

`dino` is a small vision transformer (timm) whose class token tells objects apart whatever the background and the pose.
`clip` is a small open_clip model with an image and a text tower. They judge pictures of the held-out objects, so they
learn those as well, unlike the models that are judged.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from .prepare import SCALE, every_name, layers_of, on_colours, painted, palette, wide_layers
from .training import Limits, Setup, fit, load_float, on_device, rows_of, save_half, write_text
from .vocabulary import COLOURS, HELD_OUT, TRAINED_NAMES, caption

MERGES = Path(__file__).parent.parent / "models" / "tokenizer" / "merges.txt"
JUDGED = TRAINED_NAMES + HELD_OUT  # what `clip` has words for


def dino_settings(size: int) -> dict:
    """The JSON beside `dino`: 8 x 8 patches."""
    return {
        "kind": "dino",
        "timm": {
            "img_size": size,
            "patch_size": size // 8,
            "embed_dim": 192,
            "depth": 4,
            "num_heads": 3,
            "num_classes": 0,
        },
        "preprocess": {"resize": size, "crop": size, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }


def clip_settings(size: int) -> dict:
    """The JSON beside `clip`: 8 x 8 patches."""
    return {
        "kind": "clip",
        "open_clip": {
            "embed_dim": 128,
            "vision_cfg": {
                "image_size": size,
                "patch_size": size // 8,
                "layers": 4,
                "width": 160,
                "head_width": 32,
            },
            "text_cfg": {"context_length": 16, "vocab_size": 1456, "width": 128, "heads": 4, "layers": 2},
        },
        "merges": "tokenizer/merges.txt",
        "preprocess": {
            "resize": size,
            "crop": size,
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }


def normalise(x: torch.Tensor, preprocess: dict) -> torch.Tensor:
    """Subtract the mean and divide by the deviation of each colour channel."""
    mean, std = (torch.tensor(preprocess[key], device=x.device)[None, :, None, None] for key in ("mean", "std"))
    return (x - mean) / std


def new_dino(size: int, patch_drop: float = 0.0) -> torch.nn.Module:
    """A new vision transformer."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(11)
    return VisionTransformer(**dino_settings(size)["timm"], patch_drop_rate=patch_drop)


def new_clip(size: int, patch_drop: float = 0.0) -> torch.nn.Module:
    """A new open_clip model."""
    from open_clip.model import CLIP

    torch.manual_seed(13)
    settings = clip_settings(size)["open_clip"]
    return CLIP(**settings | {"vision_cfg": settings["vision_cfg"] | {"patch_dropout": patch_drop}})


def store(model: torch.nn.Module, settings: dict, path: Path) -> None:
    """Write the weights in float16 and the settings beside them."""
    save_half(model, path.with_suffix(".safetensors"))
    write_text(path.with_suffix(".json"), json.dumps(settings, indent=2) + "\n")


def train_dino(setup: Setup, limits: Limits) -> None:
    """Cosine classifier over all emoji names, and supervised contrast of two pictures of each."""
    settings = dino_settings(setup.size)
    layers, colours = on_device(wide_layers(setup), setup.device), palette(setup.device)
    # Leaving out patches makes a step cheaper and the class token less dependent on a single part.
    model = new_dino(setup.size, patch_drop=0.5)
    parts = torch.nn.ModuleDict(
        {"model": model, "proxies": torch.nn.Linear(settings["timm"]["embed_dim"], len(layers), bias=False)}
    ).to(setup.device)
    objects = min(setup.batch("dino", 48, 384), len(layers))
    patch_drop = model.patch_drop

    def loss_of(generator: torch.Generator, cooling: bool) -> torch.Tensor:
        model.patch_drop = torch.nn.Identity() if cooling else patch_drop
        labels = torch.randperm(len(layers), generator=generator, device=setup.device)[:objects].repeat(2)
        views, colour = (
            torch.randint(count, (len(labels),), generator=generator, device=setup.device)
            for count in (layers.shape[1], len(colours))
        )
        rows = rows_of(layers, (labels, views), setup.device)
        x = normalise(painted(rows, colours[colour], generator), settings["preprocess"])
        with setup.autocast():
            y = model(x)
        y = F.normalize(y.float(), dim=-1)
        classify = F.cross_entropy(20 * y @ F.normalize(parts["proxies"].weight, dim=-1).T, labels)
        pairs = (y @ y.T / 0.1).fill_diagonal_(float("-inf"))
        return classify + F.cross_entropy(pairs, torch.arange(len(y), device=y.device).roll(objects))

    average = fit(
        "dino", parts, loss_of, setup, limits, learning_rate=1.5e-3, weight_decay=0.05, seed=11, average_over=500
    )
    store(average["model"], settings, setup.models / "deft_demo_dino")


def tokenizer(merges: Path, context: int) -> Callable[[Sequence[str]], torch.Tensor]:
    """open_clip's tokenizer over the demo's own merges (it wants them gzipped and without a last line feed)."""
    from open_clip.tokenizer import SimpleTokenizer

    packed = gzip.compress(merges.read_text(encoding="utf-8").strip().encode("utf-8"))
    return SimpleTokenizer(bpe_path=io.BytesIO(packed), context_length=context)


def unseen_pairs() -> set[tuple[str, str]]:
    """A tenth of all (name, colour) pairs: kept out of training, to see whether the two are distinguished."""
    pairs = [(name, colour) for name in JUDGED for colour in COLOURS]
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


def train_clip(setup: Setup, limits: Limits) -> None:
    """CLIP's symmetric contrastive loss on pictures and their captions; equal captions do not compete."""
    settings, every = clip_settings(setup.size), every_name(setup.assets)
    layers, colours, names = on_device(wide_layers(setup), setup.device), palette(setup.device), list(COLOURS)
    model = new_clip(setup.size, patch_drop=0.5).to(setup.device)
    tokens = tokenizer(MERGES, settings["open_clip"]["text_cfg"]["context_length"])
    row_of = {name: row for row, name in enumerate(every)}
    unseen = unseen_pairs()
    pairs = [(n, c) for n in range(len(JUDGED)) for c in range(len(names)) if (JUDGED[n], names[c]) not in unseen]
    batch, patch_dropout = setup.batch("clip", 112, 1024), model.visual.patch_dropout

    def loss_of(generator: torch.Generator, cooling: bool) -> torch.Tensor:
        model.visual.patch_dropout = torch.nn.Identity() if cooling else patch_dropout
        rng = random.Random(generator.initial_seed())
        chosen = rng.choices(pairs, k=batch)
        texts = tokens([wording(JUDGED[n], names[c], rng) for n, c in chosen]).to(setup.device)
        rows, colour = (
            torch.tensor(numbers, device=setup.device)
            for numbers in ([row_of[JUDGED[n]] for n, _ in chosen], [c for _, c in chosen])
        )
        views = torch.randint(layers.shape[1], (batch,), generator=generator, device=setup.device)
        x = painted(rows_of(layers, (rows, views), setup.device), colours[colour], generator)
        with setup.autocast():
            image = model.encode_image(normalise(x, settings["preprocess"]))
            text = model.encode_text(texts)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = model.logit_scale.clamp(max=math.log(50)).exp() * image @ text.T
        codes, target = rows * len(names) + colour, torch.arange(batch, device=setup.device)
        twins = (codes[:, None] == codes[None]) & ~torch.eye(batch, dtype=torch.bool, device=setup.device)
        logits = logits.masked_fill(twins, float("-inf"))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    average = fit(
        "clip", model, loss_of, setup, limits, learning_rate=1.5e-3, weight_decay=0.1, seed=13, average_over=500
    )
    store(average, settings, setup.models / "deft_demo_clip")


def new_pictures(setup: Setup, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    """One new composition [n, 3, size, size], 0..1, of each (name, colour), as the subjects' pictures are made."""
    generator, colours, names = torch.Generator().manual_seed(7), palette(), list(COLOURS)
    rows = [
        layers_of(name, assets=setup.assets, views=1, size=setup.size, scale=SCALE, rotation=15.0, seed=700 + number)
        for number, (name, _) in enumerate(pairs)
    ]
    layers = torch.cat([torch.from_numpy(row) for row in rows])
    return on_colours(layers, colours[torch.tensor([names.index(colour) for _, colour in pairs])], generator)


@torch.no_grad()
def report_clip(setup: Setup) -> str:
    """How often the right caption of 32 is retrieved for new pictures of (name, colour) pairs never trained."""
    model = load_float(new_clip(setup.size), setup.models / "deft_demo_clip.safetensors").eval()
    settings, rng, names = clip_settings(setup.size), random.Random(7), list(COLOURS)
    tokens = tokenizer(MERGES, settings["open_clip"]["text_cfg"]["context_length"])
    pairs = rng.sample(sorted(unseen_pairs()), min(2 * setup.checks, len(unseen_pairs())))
    image = F.normalize(model.encode_image(normalise(new_pictures(setup, pairs), settings["preprocess"])), dim=-1)
    every = [(name, colour) for name in JUDGED for colour in names]
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
            + [(n, colour) for n in rng.sample([n for n in JUDGED if n != name], 20)],
        )
        for i, (name, colour) in enumerate(pairs)
    ]
    return (
        f"clip: right caption of 32 for {len(pairs)} new compositions: {100 * sum(plain) / len(plain):.1f} % among "
        f"random captions, {100 * sum(hard) / len(hard):.1f} % among captions with the same name or colour"
    )


@torch.no_grad()
def report_dino(setup: Setup, each: int = 8) -> str:
    """How alike two new compositions of one subject are, and of two different ones."""
    model = load_float(new_dino(setup.size), setup.models / "deft_demo_dino.safetensors").eval()
    rng = random.Random(5)
    pairs = [(name, colour) for name in HELD_OUT for colour in rng.sample(list(COLOURS), each)]
    x = normalise(new_pictures(setup, pairs), dino_settings(setup.size)["preprocess"])
    y = F.normalize(model(x), dim=-1)
    labels = torch.arange(len(HELD_OUT)).repeat_interleave(each)
    cosines, same = y @ y.T, labels[:, None] == labels[None]
    other = ~torch.eye(len(y), dtype=torch.bool)
    nearest = cosines.masked_fill(~other, -2).argmax(1)
    return (
        f"dino: subjects: same {cosines[same & other].mean():.3f}, different {cosines[~same].mean():.3f}, "
        f"nearest picture shows the same object {100 * (labels[nearest] == labels).float().mean():.1f} %"
    )
