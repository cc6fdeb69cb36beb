"""What a training step costs: Train Adapter against ComfyUI's Train LoRA, on the demo model.

    $(make -s python) benchmarks/train.py [--steps 30] [--runs 3] [--batch 4]

train.<method>.step: seconds of one more step. train.<method>.memory: MiB that the training adds to the process at its
peak (Linux). Ours trains every linear layer with the method, the peer its LoRA on all weights, which it cannot limit;
rank 4, fp32, no gradient checkpointing. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from apply import prepare  # noqa: E402
from frame import alternate, report  # noqa: E402

METHODS = ("lora", "deft")
PEER = "core"
RANK = 4
MIB = 1 << 20


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / MIB for line in lines if line.startswith(field))


def material() -> tuple[Any, list[dict[str, Any]], list[Any]]:
    """The demo model and a subject's five pictures and captions, encoded, as ComfyUI's nodes give them."""
    import folder_paths
    import nodes

    from deft_pack.nodes import demo

    for kind in ("diffusion_models", "vae"):
        folder_paths.add_model_folder_path(kind, str(ROOT / "demo" / "models" / kind))
    images, captions = demo.NODES[1].execute("teddy_bear", "sks").result
    clip = demo.NODES[0].execute().result[0]
    vae = nodes.VAELoader().load_vae("deft_demo_vae.safetensors")[0]
    model = nodes.UNETLoader().load_unet("deft_demo_denoiser.safetensors", "default")[0]
    latents = [nodes.VAEEncode().encode(vae, images)[0]]
    return model, latents, [nodes.CLIPTextEncode().encode(clip, caption)[0] for caption in captions]


def train(method: str, steps: int, batch: int, model: Any, latents: list, captions: list) -> None:
    """Run the training node of one side."""
    if method == PEER:
        from comfy_extras.nodes_train import TrainLoraNode

        values = {
            "batch_size": batch, "steps": steps, "grad_accumulation_steps": 1, "learning_rate": 1e-4, "rank": RANK,
            "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32",
            "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False, "checkpoint_depth": 1,
            "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False}
        TrainLoraNode.execute([model], latents, captions, **{name: [value] for name, value in values.items()})
        return
    from deft_pack.trainers.loop import train as train_adapter
    from deft_pack.trainers.settings import Settings

    settings = Settings(method, RANK, steps, 1e-4, batch_size=batch, layers="all linear", precision="fp32")
    train_adapter(model, latents, captions, settings, lambda progress: None)


def measure(method: str, steps: int, batch: int) -> dict[str, float]:
    """In a fresh process: the seconds of a step after the first, and the memory that the training adds."""
    prepare()
    import torch

    with torch.inference_mode():
        inputs = material()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the training would reuse what the encoding has freed
        start = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        seconds = []
        for count in (1, 1, steps + 1):  # the first call pays what happens once in a process
            started = time.perf_counter()
            train(method, count, batch, *inputs)
            seconds.append(time.perf_counter() - started)
        return {"step": (seconds[2] - seconds[1]) / steps, "memory": memory("VmHWM") - start}


def child(method: str, steps: int, batch: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--child", method, "--steps", str(steps), "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.steps, options.batch)))
        return
    for method in METHODS:
        seen: dict[str, list[float]] = {method: [], PEER: []}

        def step(side: str, seen: dict[str, list[float]] = seen) -> float:
            found = child(side, options.steps, options.batch)
            seen[side].append(found["memory"])
            return found["step"]

        ours, peer = alternate(lambda method=method: step(method), lambda: step(PEER), options.runs, warm_up=0)
        report(f"train.{method}.step", ours, peer, "s", options.runs)
        middle = [sorted(values)[len(values) // 2] for values in (seen[method], seen[PEER])]
        report(f"train.{method}.memory", *middle, "MiB", options.runs)


if __name__ == "__main__":
    main()
