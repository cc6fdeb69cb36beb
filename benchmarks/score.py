"""Scoring a folder of pairs with all four metrics of DreamBench++: ours and its own loop, in turns.

    python benchmarks/score.py [pairs again memory] [--references 3] [--prompts 9] [--runs 3] [--photos FOLDER]

Prints one JSON line a measurement; ratio is ours / peer.
score.pairs: seconds for all pairs, models loaded before, all cores on both sides.
score.difference: the largest difference of the four means on the 0 to 1 scale; exit status 1 above 1e-5.
score.again: a second table over the same pictures beside the first; it needs no forward.
score.memory: peak memory of scoring 10,000 pictures beside 1,000, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1e-5
_METRICS = ("CLIP-I", "CLIP-T", "DINO", "DINOv2")
MANY, FEW = 10_000, 1_000


def load_pack() -> None:
    """The pack under a name that Python takes, without ComfyUI."""
    spec = importlib.util.spec_from_file_location(
        "deft_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["deft_pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def make_pictures(folder: Path, count: int, side: int, seed: int, quality: int = 92) -> list[Path]:
    """JPEG files of smooth noise, each with another content."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    paths = []
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        paths.append(folder / f"{index:05}.jpg")
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=quality)
    return paths


def photos(folder: Path, count: int) -> list[Path]:
    """The first pictures below a folder of photos, over and over if there are too few."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        sys.exit(f"there are no pictures in {folder}")
    return [paths[index % len(paths)] for index in range(count)]


def measure_pairs(options: argparse.Namespace, again: bool, pairs: bool) -> bool:
    """Measure and print the lines of pairs and again; whether the results are equal."""
    from deft_pack.benchmarks.dreambench_loop import make_loop
    from deft_pack.benchmarks.frame import compare, report
    from deft_pack.scoring.embeddings import FeatureStore
    from deft_pack.scoring.pictures import FilePictures
    from deft_pack.scoring.scorer import load_scorer, score

    count = options.references * options.prompts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = make_loop(folder)
        scorer = load_scorer("dreambench++", [folder])
        if options.photos:
            images = photos(options.photos, count + options.references)
            images, real = images[:count], images[count:]
        else:
            images = make_pictures(folder / "images", count, 512, 1)
            real = make_pictures(folder / "references", options.references, 512, 2)
        references = [path for path in real for _ in range(options.prompts)]
        texts = [f"a photo of thing {index} in the jungle" for index in range(count)]
        results: dict[str, dict[str, float]] = {}

        def ours(store: Any) -> float:
            started = time.perf_counter()
            result = score(replace(scorer, store=store), FilePictures(images), FilePictures(references), texts)
            results["ours"] = {metric: result.value(metric) for metric in _METRICS}
            return time.perf_counter() - started

        def peer() -> float:
            started = time.perf_counter()
            results["peer"] = loop.run(images, references, texts)
            return time.perf_counter() - started

        equal = True
        if pairs:
            compare("score.pairs", lambda: ours(FeatureStore()), peer, runs=options.runs, warm_up=0)
            difference = max(abs(results["ours"][metric] - results["peer"][metric]) / 100 for metric in _METRICS)
            equal = difference <= LIMIT
            print(
                json.dumps(
                    {
                        "name": "score.difference",
                        "largest": float(f"{difference:.3g}"),
                        "limit": LIMIT,
                        "ours": results["ours"],
                        "peer": results["peer"],
                    }
                ),
                flush=True,
            )
        if again:
            store = FeatureStore()
            first = ours(store)
            forwards = count_forwards(scorer)
            report("score.again", ours(store), first, "s", 1)
            print(json.dumps({"name": "score.again.forwards", "ours": sum(forwards)}), flush=True)
            equal = equal and not forwards
    return equal


def count_forwards(scorer: Any) -> list[int]:
    """A list that grows by one with every forward of a backbone from now on."""
    seen: list[int] = []
    for backbone in scorer.backbones.values():
        backbone.before_use = lambda: seen.append(1)
    return seen


def measure_memory() -> None:
    """Measure and print the line of memory."""
    from deft_pack.benchmarks.frame import report

    peaks = []
    with tempfile.TemporaryDirectory() as name:
        make_pictures(Path(name) / "many", MANY, 256, 3, quality=75)
        for count in (MANY, FEW):
            command = [sys.executable, __file__, "--peak", str(count), "--photos", str(Path(name) / "many")]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(float(done.stdout.split()[-1]))
    report("score.memory", peaks[0], peaks[1], "MiB", 1)


def print_peak(folder: Path, count: int) -> None:
    """Score so many pictures with the demo's scorers, in a process that does nothing else; print the peak in MiB."""
    from deft_pack.benchmarks.frame import memory
    from deft_pack.scoring.pictures import FilePictures
    from deft_pack.scoring.scorer import load_scorer, score

    scorer = load_scorer("demo", [ROOT / "demo" / "models"])
    files = FilePictures(sorted(folder.glob("*.jpg"))[:count])
    score(scorer, files, FilePictures(files.paths[:5]), ["a dog"] * count)
    print(memory("VmHWM"))


def main() -> None:
    """Measure and print; exit status 1 when results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("pairs", "again", "memory")
    parser.add_argument("what", nargs="*", help=f"which of {', '.join(kinds)} (all)")
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=9)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--photos", type=Path, help="a folder of pictures in place of smooth noise")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.what or kinds
    if set(chosen) - set(kinds):
        parser.error(f"choose from {', '.join(kinds)}")
    load_pack()
    if options.peak:
        print_peak(options.photos, options.peak)
        return
    equal = measure_pairs(options, "again" in chosen, "pairs" in chosen) if {"pairs", "again"} & set(chosen) else True
    if "memory" in chosen:
        measure_memory()
    sys.exit(not equal)


if __name__ == "__main__":
    main()
