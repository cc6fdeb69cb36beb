"""A training in a process of its own that is killed (SIGKILL) in the midst of it.

python -m tests.comfy.killed_training FOLDER STEP
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from . import conftest

STEPS, EVERY = 20, 5


def settings(module: Any) -> Any:
    """Settings with everything that has a state: order, moments, moving average, schedule, dropout."""
    return module.Settings(
        "deft",
        3,
        STEPS,
        1e-2,
        batch_size=2,
        layers="all linear",
        seed=5,
        ema=0.9,
        schedule="cosine",
        warm_up=3,
        caption_dropout=0.3,
        accumulation=2,
        options={"projector": "qr"},
    )


def material(module: Any, models: Any, model: Any) -> Any:
    """Five pictures of two sizes."""
    latents = [models.latents(model, 3), models.latents(model, 2, size=12, seed=4)]
    captions = [models.conditioning(seed) for seed in (20, 30, 40, 50, 60)]
    return module.Material(latents, captions, empty=[models.conditioning(90)])


def main() -> None:
    """Train until the step is reached, and die."""
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    import torch

    from . import models

    comfyui = conftest.ComfyUI()
    loop, checkpoints = comfyui.module("trainers.run.loop"), comfyui.module("trainers.run.checkpoints")

    def die(progress: Any) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with torch.inference_mode():
        model = models.sd3()
        loop.train(
            model,
            material(comfyui.module("trainers.data.material"), models, model),
            settings(comfyui.module("trainers.settings.settings")),
            die,
            folder=checkpoints.RunFolder(folder, EVERY),
        )


if __name__ == "__main__":
    main()
