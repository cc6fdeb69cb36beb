"""Make the demo model from the emoji renders: one command, which can be interrupted and given again.

    python -m demo.recipe.make --comfyui DIR --assets DIR --work DIR [--device cuda]

Prepares the pictures, then trains the autoencoder, the denoiser with its text encoder, and the two scorers, and
measures the result. Everything lies in the work folder; WORK/models has the layout of demo/models.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch

from .training import Limits, Setup, log

# Hours of each stage on one CPU core (its own time, not that of the clock) and on one accelerator.
HOURS = {
    "autoencoder": (3.0, 0.04),
    "denoiser": (12.0, 0.065),
    "dino": (0.75, 0.012),
    "clip": (0.75, 0.012),
}
_TARGET = 35.0  # dB


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder")
    parser.add_argument("--assets", type=Path, required=True, help="folder with the .webp renders")
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, checkpoints and models (2 GB)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores if not given")
    parser.add_argument("--start", type=Path, help="folder laid out as demo/models, to begin with its weights")
    parser.add_argument("--only", choices=HOURS, action="append", help="stages to run; all if not given")
    parser.add_argument("--times", type=float, default=1.0, help="times the usual hours of every stage")
    parser.add_argument("--steps", type=int, help="steps of every stage, instead of hours")
    parser.add_argument("--target", type=float, default=_TARGET, help="dB at which the autoencoder is finished")
    parser.add_argument("--depth", type=int, default=3, help="blocks of the denoiser")
    parser.add_argument("--size", type=int, default=128, help="pixels on each side of a picture")
    parser.add_argument("--views", type=int, default=12, help="renders of each emoji")
    parser.add_argument("--per-caption", type=int, default=8, help="pictures of each caption")
    parser.add_argument("--batch", type=int, help="examples in a step of every stage, instead of the usual numbers")
    parser.add_argument("--full", action="store_true", help="train every block of the autoencoder; usual on cuda")
    return parser.parse_args()


def main() -> None:
    """Run the stages that are not finished, and measure."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    from . import train_autoencoder

    train_autoencoder.use_comfyui(args.comfyui, device)
    from . import check_denoiser, train_denoiser, train_scorers

    setup = Setup(
        assets=args.assets,
        work=args.work,
        device=device,
        size=args.size,
        views=args.views,
        per_caption=args.per_caption,
        workers=(os.cpu_count() or 1) if cuda else 1,
        batches=dict.fromkeys(HOURS, args.batch) if args.batch else {},
    )
    setup.models.mkdir(parents=True, exist_ok=True)
    stages: dict[str, tuple[Callable[[Limits], None], Callable[[], str]]] = {
        "autoencoder": (
            lambda limits: train_autoencoder.train(setup, limits, args.start, args.full or cuda),
            lambda: train_autoencoder.report(setup),
        ),
        "denoiser": (
            lambda limits: train_denoiser.train(setup, limits, args.start, args.depth),
            lambda: "denoiser: " + str(setup.work / "samples-16.png"),
        ),
        "dino": (lambda limits: train_scorers.train_dino(setup, limits), lambda: train_scorers.report_dino(setup)),
        "clip": (lambda limits: train_scorers.train_clip(setup, limits), lambda: train_scorers.report_clip(setup)),
    }
    for name, (train, report) in stages.items():
        if args.only and name not in args.only:
            continue
        target = args.target if name == "autoencoder" else None
        train(Limits(hours=args.times * HOURS[name][cuda], steps=args.steps, target=target))
        log(report())
    if not args.only:
        log(check_denoiser.report(setup, args.depth))
        size = sum(file.stat().st_size for file in setup.models.rglob("*.safetensors"))
        log(f"finished: {size / 1e6:.1f} MB in {setup.models}")


if __name__ == "__main__":
    main()
