"""Captioned pictures of the demo: one emoji on a plain background, of random size, place and rotation; two scenes.

The renders are the MIT-licensed 3D emoji of the npm package @lobehub/fluent-emoji-3d 1.1.0 (see ../LICENSE-EMOJI.md).
`python -m demo.recipe.compose --assets DIR` writes the subject folders that ship with the pack.
"""

from __future__ import annotations

import argparse
import random
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from .vocabulary import COLOURS, HELD_OUT, SCENES, UNICODE_NAMES, caption, scene_caption

SIZE = 64  # pixels, of a finished picture


@cache
def asset_files(assets: Path) -> dict[str, Path]:
    """Picture file of each emoji that is one code point, by its Unicode name in lower case."""
    files = {}
    for file in sorted(assets.glob("*.webp")):
        points = [part for part in file.stem.split("-") if part != "fe0f"]
        if len(points) == 1:
            files[unicodedata.name(chr(int(points[0], 16)), file.stem).lower()] = file
    return files


@cache
def cutout(assets: Path, name: str) -> Image.Image:
    """The object without a background, cropped to its outline, at most 192 px wide and high, RGBA."""
    unicode_name = UNICODE_NAMES.get(name, name)
    files = asset_files(assets)
    if unicode_name not in files:
        raise KeyError(f"no emoji is called {unicode_name!r} in {assets}")
    picture = Image.open(files[unicode_name]).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((192, 192), Image.Resampling.LANCZOS)
    return picture


def compose(
    assets: Path,
    name: str,
    colour: str,
    rng: random.Random,
    size: int = SIZE,
    scale: tuple[float, float] = (0.62, 0.92),
    rotation: float = 15.0,
) -> Image.Image:
    """One picture [size, size] RGB: the object at a random size, place and rotation on a slightly varied colour."""
    base = COLOURS[colour]
    shift = rng.uniform(-10, 10)
    background = tuple(int(min(255, max(0, c + shift + rng.uniform(-6, 6)))) for c in base)
    canvas = Image.new("RGBA", (size, size), (*background, 255))
    item = cutout(assets, name).rotate(rng.uniform(-rotation, rotation), Image.Resampling.BICUBIC, expand=True)
    item = item.crop(item.getchannel("A").getbbox())
    factor = rng.uniform(*scale) * size / max(item.size)
    item = item.resize(
        (max(1, round(item.width * factor)), max(1, round(item.height * factor))), Image.Resampling.LANCZOS
    )
    place = (rng.randint(0, size - item.width), rng.randint(0, size - item.height))
    canvas.alpha_composite(item, place)
    return canvas.convert("RGB")


def table(rng: random.Random, size: int) -> tuple[Image.Image, int]:
    """A wooden table's top, RGBA on nothing, and the height in pixels at which things stand on it."""
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    top = round(size * rng.uniform(0.62, 0.68))
    draw.rectangle((0, top, size, size), fill=(150, 98, 58, 255))
    for line in range(top + 4, size, 6):  # planks
        draw.line((0, line, size, line), fill=(122, 80, 50, 255), width=1)
    draw.rectangle((0, top, size, top + 1), fill=(196, 142, 92, 255))
    return picture, top + round(size * 0.16)


def garden(rng: random.Random, size: int) -> tuple[Image.Image, int]:
    """A lawn with a white fence behind it, RGBA on nothing, and the height in pixels at which things stand on it."""
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    top = round(size * rng.uniform(0.58, 0.64))
    draw.rectangle((0, top, size, size), fill=(86, 178, 84, 255))
    for rail in (0.42, 0.52):
        draw.rectangle((0, round(size * rail), size, round(size * rail) + 1), fill=(236, 236, 230, 255))
    step = round(size / 9)
    for left in range(rng.randrange(step) - step, size, step):
        draw.rectangle((left, round(size * 0.37), left + step // 2, top), fill=(246, 246, 240, 255))
    return picture, top + round(size * 0.2)


def compose_scene(
    assets: Path, scene: str, objects: Sequence[str], colour: str, rng: random.Random, size: int = SIZE
) -> Image.Image:
    """One picture [size, size] RGB: the objects side by side on a table or in a garden, before a colour."""
    canvas = Image.new("RGBA", (size, size), (*COLOURS[colour], 255))
    place, floor = {"table": table, "garden": garden}[scene](rng, size)
    canvas.alpha_composite(place)
    width = size / len(objects)
    for index, name in enumerate(objects):
        item = cutout(assets, name)
        factor = min(width * 0.95 / item.width, size * 0.55 / item.height) * rng.uniform(0.85, 1.0)
        item = item.resize((round(item.width * factor), round(item.height * factor)), Image.Resampling.LANCZOS)
        left = round(width * index + rng.uniform(0, width - item.width))
        canvas.alpha_composite(item, (left, floor - item.height + rng.randint(-1, 2)))
    return canvas.convert("RGB")


def write_scenes(assets: Path, folder: Path, size: int = SIZE, seed: int = 0) -> None:
    """Write the captioned pictures of each scene: folder/<scene>/<i>.png and .txt."""
    for scene, pictures in SCENES.items():
        rng = random.Random(f"{seed} {scene}")
        target = folder / scene
        target.mkdir(parents=True, exist_ok=True)
        for index, (*objects, colour) in enumerate(pictures):
            compose_scene(assets, scene, objects, colour, rng, size).save(target / f"{index}.png", optimize=True)
            (target / f"{index}.txt").write_text(scene_caption(scene, objects, colour) + "\n")


def write_subjects(assets: Path, folder: Path, count: int = 5, size: int = SIZE, seed: int = 0) -> None:
    """Write `count` captioned pictures of each held-out object: folder/<name>/<i>.png and .txt."""
    for name in HELD_OUT:
        rng = random.Random(f"{seed} {name}")
        target = folder / name.replace(" ", "_")
        target.mkdir(parents=True, exist_ok=True)
        for index, colour in enumerate(rng.sample(sorted(COLOURS), count)):
            compose(assets, name, colour, rng, size).save(target / f"{index}.png", optimize=True)
            (target / f"{index}.txt").write_text(caption(name, colour) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="folder with the .webp renders")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "subjects")
    args = parser.parse_args()
    write_subjects(args.assets, args.out)
    write_scenes(args.assets, args.out)


if __name__ == "__main__":
    main()
