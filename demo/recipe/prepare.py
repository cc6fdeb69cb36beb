"""Prepare the pictures of the training once: every emoji alone, on nothing, in files that are mapped into memory.

The training puts them on a colour when it needs them, which costs next to nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .compose import asset_files, cutout
from .training import Setup, log, write_whole
from .vocabulary import COLOURS, HELD_OUT, TRAINED_NAMES, UNICODE_NAMES

# What the denoiser learns to draw: upright and large, so that small details are worth some pixels.
SCALE, ROTATION = (0.70, 0.94), 10.0
# What the autoencoder and the scorers see: more than that.
WIDE_SCALE, WIDE_ROTATION = (0.50, 0.96), 30.0


def every_name(assets: Path) -> list[str]:
    """All objects there is a render of, the held-out ones among them, by the name in captions where there is one."""
    plain = {unicode_name: name for name, unicode_name in UNICODE_NAMES.items()}
    return [plain.get(name, name) for name in asset_files(assets)]


def seen_names(assets: Path) -> list[int]:
    """Rows of `every_name` that models may learn from: all but the held-out objects."""
    return [row for row, name in enumerate(every_name(assets)) if name not in HELD_OUT]


def layer(
    assets: Path, name: str, rng: random.Random, size: int, scale: tuple[float, float], rotation: float
) -> np.ndarray:
    """The object alone, uint8 [4, size, size]: colours multiplied by alpha, and alpha; random size, place, rotation."""
    item = cutout(assets, name).rotate(rng.uniform(-rotation, rotation), Image.Resampling.BICUBIC, expand=True)
    item = item.crop(item.getchannel("A").getbbox())
    factor = rng.uniform(*scale) * size / max(item.size)
    item = item.resize(
        (max(1, round(item.width * factor)), max(1, round(item.height * factor))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(item, (rng.randint(0, size - item.width), rng.randint(0, size - item.height)))
    rgba = np.asarray(canvas).astype(np.uint16)
    rgba[..., :3] = rgba[..., :3] * rgba[..., 3:] // 255
    return rgba.astype(np.uint8).transpose(2, 0, 1)


def layers_of(
    name: str, *, assets: Path, views: int, size: int, scale: tuple[float, float], rotation: float, seed: int
) -> np.ndarray:
    """Several layers of an object, uint8 [views, 4, size, size]."""
    rng = random.Random(f"{seed} {name}")
    return np.stack([layer(assets, name, rng, size, scale, rotation) for _ in range(views)])


def prepared(
    setup: Setup, title: str, names: Sequence[str], views: int, scale: tuple[float, float], rotation: float, seed: int
) -> np.ndarray:
    """The layers of all names, uint8 [names, views, 4, size, size], mapped from a file that is made if need be."""
    path = setup.work / f"{title}-{len(names)}x{views}x{setup.size}.npy"
    if not path.is_file():
        log(f"preparing {len(names)} x {views} layers for {path.name}")
        make = partial(
            layers_of, assets=setup.assets, views=views, size=setup.size, scale=scale, rotation=rotation, seed=seed
        )

        def write(part: Path) -> None:
            shape = (len(names), views, 4, setup.size, setup.size)
            array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
            if setup.workers > 1:
                with ProcessPoolExecutor(setup.workers) as pool:
                    for row, part_of in enumerate(pool.map(make, names, chunksize=8)):
                        array[row] = part_of
            else:
                for row, name in enumerate(names):
                    array[row] = make(name)
            array.flush()

        write_whole(path, write)
    return np.load(path, mmap_mode="r")


def wide_layers(setup: Setup) -> np.ndarray:
    """Layers of every emoji, for the autoencoder and the scorers."""
    return prepared(setup, "wide", every_name(setup.assets), setup.views, WIDE_SCALE, WIDE_ROTATION, seed=11)


def trained_layers(setup: Setup) -> np.ndarray:
    """Layers of the objects that the denoiser draws."""
    return prepared(setup, "trained", TRAINED_NAMES, 2 * setup.per_caption, SCALE, ROTATION, seed=12)


def held_back_layers(setup: Setup, held_out: bool = False) -> np.ndarray:
    """Layers that no model learns from: new ones of what the autoencoder sees, or of the held-out objects."""
    every, seen = every_name(setup.assets), seen_names(setup.assets)
    random.Random(2).shuffle(seen)
    names = HELD_OUT if held_out else [every[row] for row in seen[: setup.checks]]
    return prepared(setup, "held-out" if held_out else "check", names, 2, WIDE_SCALE, WIDE_ROTATION, seed=2)


def palette(device: torch.device | None = None) -> torch.Tensor:
    """The background colours [12, 3], 0..255, in the order of COLOURS."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=device)


def uniform(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers of a shape, on the generator's device."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device) * (high - low) + low


def on_colours(rows: torch.Tensor, colours: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Put layers uint8 [b, 4, h, w] on slightly varied colours [b, 3] (0..255): [b, 3, h, w], 0..1, as `compose`."""
    shift = uniform((len(rows), 1), -10, 10, generator) + uniform((len(rows), 3), -6, 6, generator)
    background = (colours + shift).clamp(0, 255).floor()[..., None, None]
    return ((rows[:, :3].float() + background * (1 - rows[:, 3:].float() / 255)) / 255).clamp(0, 1)


def painted(rows: torch.Tensor, colours: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures as of `on_colours` with fading backgrounds, flips, blur and noise: what the scorers should not mind."""
    count, size, device = len(rows), rows.shape[-1], rows.device
    base = (colours + uniform((count, 3), -16, 16, generator)).clamp(0, 255)
    # A third of the backgrounds fades to another colour: generated pictures are never as plain as painted ones.
    fades = uniform((count, 1), 0, 1, generator) < 0.33
    other = torch.where(fades, base + uniform((count, 3), -60, 60, generator), base).clamp(0, 255)
    ramp = torch.linspace(0, 1, size, device=device)[None, None, :, None]
    background = (base[..., None, None] * (1 - ramp) + other[..., None, None] * ramp).expand(-1, -1, -1, size)
    x = (rows[:, :3].float() + background * (1 - rows[:, 3:].float() / 255)) / 255
    x = torch.where(uniform((count, 1, 1, 1), 0, 1, generator) < 0.5, x.flip(3), x)
    for width, share in ((2, 0.3), (4, 0.15)):
        soft = F.interpolate(F.avg_pool2d(x, width), scale_factor=width, mode="bilinear")
        x = torch.where(uniform((count, 1, 1, 1), 0, 1, generator) < share, soft, x)
    noise = torch.randn(x.shape, generator=generator, device=device)
    return (x + 0.03 * uniform((count, 1, 1, 1), 0, 1, generator) * noise).clamp(0, 1)
