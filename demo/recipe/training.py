"""The training loop of every stage: checkpoints, an average of the weights, a rate that falls at the end.

A stage can be interrupted at any step. Every random number follows from the seed and the step, so a resumed run ends
with the weights of one that was never interrupted.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Limits:
    """When a stage ends: after so many hours of work or steps, or once its measure has reached the target.

    The last `cooldown` of it lowers the learning rate to zero.
    """

    hours: float
    steps: int | None = None
    target: float | None = None
    cooldown: float = 0.25


@dataclass(frozen=True)
class Setup:
    """What the stages share."""

    assets: Path
    """folder with the .webp renders"""
    work: Path
    """folder of the prepared pictures, the checkpoints, the models and the log"""
    device: torch.device
    size: int = 128
    """width and height of the pictures in pixels"""
    views: int = 12
    """renders of each emoji with another size, place and rotation"""
    per_caption: int = 8
    """pictures of each caption that the denoiser learns from"""
    checks: int = 128
    """new compositions that a measurement takes"""
    workers: int = 1
    """processes that prepare pictures"""
    save_every: float = 200.0
    """seconds by the clock between two checkpoints"""
    batches: Mapping[str, int] = field(default_factory=dict)
    """examples in a step, by stage, where not the usual number"""

    @property
    def models(self) -> Path:
        """Where the finished models are written."""
        return self.work / "models"

    def batch(self, stage: str, cpu: int, cuda: int) -> int:
        """Examples in a step of the stage."""
        return self.batches.get(stage, cuda if self.device.type == "cuda" else cpu)

    def autocast(self) -> torch.autocast:
        """bfloat16 where it is safe."""
        return torch.autocast(self.device.type, torch.bfloat16)


def log(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file that takes the place of `path` in one go, so that no half file can be left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    write(part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.chmod(0o644)  # safetensors makes it private
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def save_half(module: torch.nn.Module, path: Path) -> None:
    """Write the module's floating point weights in float16 as safetensors."""
    from safetensors.torch import save_file

    state = {
        key: value.detach().cpu().half().contiguous()
        for key, value in module.state_dict().items()
        if value.is_floating_point()
    }
    write_whole(path, lambda part: save_file(state, part))


def load_float(module: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Fill the module with the file's weights in float32.

    Raises:
        ValueError: a weight is missing, or has another shape.
    """
    from safetensors.torch import load_file

    try:
        module.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold this model: {error}") from None
    return module


def seconds_worked(device: torch.device) -> float:
    """A clock of the work done: on the CPU it stands still while the process is paused or has to wait."""
    return time.monotonic() if device.type == "cuda" else time.process_time() / torch.get_num_threads()


def seeded(device: torch.device, seed: int, step: int) -> torch.Generator:
    """The random numbers of one step; those of the layers (dropout) follow from the same number."""
    number = seed * 1_000_003 + step
    torch.manual_seed(number)
    return torch.Generator(device).manual_seed(number)


def rate(step: int, cooldown_from: int | None, length: int, warm_up: int = 200) -> float:
    """Share of the learning rate: a warm-up, then 1, in the cool-down 1 - sqrt(done) (arXiv 2405.18392)."""
    share = min(1.0, (step + 1) / warm_up)
    return share if cooldown_from is None else share * (1 - min(1.0, (step - cooldown_from) / length) ** 0.5)


def fit(
    name: str,
    parts: torch.nn.Module,
    loss_of: Callable[[torch.Generator, bool], torch.Tensor],
    setup: Setup,
    limits: Limits,
    *,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    average_over: int = 1000,
    measure: Callable[[torch.nn.Module], float | None] = lambda average: None,
    measure_every: float = 600.0,
) -> torch.nn.Module:
    """Train `parts` by AdamW and return the average of its weights over about the last `average_over` steps.

    Goes on from work/NAME.checkpoint where there is one, and returns at once where that one is finished.
    `loss_of` takes the random numbers of the step, and whether the rate is falling already. `measure` is called now and
    then with the average; what it returns is what the target is compared with.
    """
    path = setup.work / f"{name}.checkpoint"
    average = copy.deepcopy(parts).requires_grad_(False)
    groups = [
        {"params": [p for p in parts.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parts.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "cooldown_from": None, "length": 1, "done": False, "curve": []}
    if path.is_file():
        saved = torch.load(path, map_location=setup.device, weights_only=True)
        parts.load_state_dict(saved.pop("parts"))
        average.load_state_dict(saved.pop("average"))
        optimizer.load_state_dict(saved.pop("optimizer"))
        state = saved
        log(f"{name}: going on at step {state['step']} after {state['seconds'] / 3600:.2f} h")

    def save() -> None:
        everything = state | {
            "parts": parts.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        write_whole(path, lambda part: torch.save(everything, part))

    def look() -> None:
        value = measure(average.eval())
        if value is not None:
            state["curve"].append([state["step"], round(state["seconds"]), value])
            log(f"{name}: step {state['step']}, {state['seconds'] / 3600:.2f} h: {value:.2f}")

    def steady_is_over() -> bool:
        if limits.target is not None and state["curve"] and state["curve"][-1][2] >= limits.target:
            return True
        if limits.steps is not None:
            return state["step"] >= round(limits.steps * (1 - limits.cooldown))
        return state["seconds"] >= 3600 * limits.hours * (1 - limits.cooldown)

    measure_every = min(measure_every, 360 * limits.hours)
    looked_at = logged_at = state["seconds"]
    saved_at = time.monotonic()
    smooth: torch.Tensor | None = None
    while not state["done"]:
        started, step = seconds_worked(setup.device), state["step"]
        if state["cooldown_from"] is None and steady_is_over():
            state["cooldown_from"] = step
            state["length"] = max(1, round(step * limits.cooldown / (1 - limits.cooldown)))
            log(f"{name}: {state['length']} steps of cool-down from step {step}")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate(step, state["cooldown_from"], state["length"])
        parts.train()
        loss = loss_of(seeded(setup.device, seed, step), state["cooldown_from"] is not None)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            kept, new = list(average.parameters()), list(parts.parameters())
            torch._foreach_lerp_(kept, new, max(1 / average_over, 10 / (step + 10)))
        value = loss.detach()  # read rarely: that waits for the accelerator
        smooth = value if smooth is None else smooth.lerp(value, 0.02)
        state["step"] = step + 1
        state["done"] = state["cooldown_from"] is not None and step + 1 >= state["cooldown_from"] + state["length"]
        state["seconds"] += seconds_worked(setup.device) - started
        if state["seconds"] - logged_at > 60:
            logged_at = state["seconds"]
            log(f"{name}: step {step + 1}, {state['seconds'] / 3600:.2f} h, loss {smooth.item():.4f}")
        if state["seconds"] - looked_at > measure_every or state["done"]:
            looked_at = state["seconds"]
            look()
        if time.monotonic() - saved_at > setup.save_every or state["done"]:
            save()
            saved_at = time.monotonic()
    return average.eval()


def rows_of(
    array: np.ndarray | torch.Tensor, rows: torch.Tensor | tuple[torch.Tensor, ...], device: torch.device
) -> torch.Tensor:
    """Rows of an array in a file or on the device, by one index or several, on the device."""
    if isinstance(array, torch.Tensor):
        return array[rows]
    index = tuple(part.numpy() for part in rows) if isinstance(rows, tuple) else rows.numpy()
    return torch.from_numpy(array[index]).to(device)


def on_device(array: np.ndarray, device: torch.device) -> np.ndarray | torch.Tensor:
    """The array in the accelerator's memory; on the CPU as it is."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device) if device.type == "cuda" else array
