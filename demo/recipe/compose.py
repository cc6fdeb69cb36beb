"""Captioned pictures of the demo: one emoji on a plain background, of random size, place and rotation.

The renders are the MIT-licensed 3D emoji of the npm package @lobehub/fluent-emoji-3d 1.1.0 (see ../LICENSE-EMOJI.md).
`python -m demo.recipe.compose --assets DIR` writes the subject folders that ship with the pack.
"""

from __future__ import annotations

import argparse
import random
import unicodedata
from functools import cache
from pathlib import Path

from PIL import Image

from .vocabulary import COLOURS, HELD_OUT, UNICODE_NAMES, caption

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
    wanted = UNICODE_NAMES.get(name, name)
    files = asset_files(assets)
    if wanted not in files:
        raise KeyError(f"no emoji is called {wanted!r} in {assets}")
    picture = Image.open(files[wanted]).convert("RGBA")
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


if __name__ == "__main__":
    main()
